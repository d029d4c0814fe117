"""The messages of Chargehand: what the services say to each other and to the world. Pydantic models and pure functions only."""
