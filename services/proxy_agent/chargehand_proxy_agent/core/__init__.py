"""The rules of the agent as pure functions: what one attempt does next, and what is said of it (docs/protocol.md, section 1)."""
