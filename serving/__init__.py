"""Server, client and scoring over TensorFlow Serving's protocol."""
