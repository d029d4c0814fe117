"""The mark in the environment of everything the demonstration's hosts run. Owns its name."""

MARK = "CHARGEHAND_DEMO"
