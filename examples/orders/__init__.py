"""The order case: an orders service and an inventory service that talk through Kafka alone. Start with README.md."""
