"""The planner's decisions, pure: commands and facts in, events or refusals out. No clock, no store, no Kafka."""
