"""Deployment files for TensorFlow Serving: text protos, image, compose, Kubernetes."""
