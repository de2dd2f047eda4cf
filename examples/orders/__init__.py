"""The order case: four services that talk through Kafka alone. Start with README.md."""
