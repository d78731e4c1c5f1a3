"""Raw events -> labelled point-in-time examples -> TFRecord -> tf.data batches."""
