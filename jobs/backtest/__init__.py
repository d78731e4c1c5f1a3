"""The back-test: what retraining before past promotions would have done."""
