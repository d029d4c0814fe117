"""The planner's shell: store, Kafka, the rendering process. It does what the core decides."""
