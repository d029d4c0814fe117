"""The verbs. Each module is imported when one of its verbs is used; what they need is imported when they run."""
