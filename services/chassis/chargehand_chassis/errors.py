"""Exceptions named by what the loop must do about them (docs: errors). Owns the names; nothing is caught here."""

from __future__ import annotations

NEEDS_A_PERSON = "needs a person: "
"""How a service that runs says that waiting does not help (/readyz); supervisors look for it."""


class ChargehandError(Exception):
    """Base of what this program raises on purpose. The text says what was wrong, where, and what to do."""


class PoisonMessage(ChargehandError):
    """One message cannot be handled, now or later: dead letter, and the partition goes on."""


class TransientFailure(ChargehandError):
    """It may work later: back off and try again, or exit and be restarted."""


class FatalFailure(ChargehandError):
    """A person must act: exit, and do not restart in a loop."""


class PublishFailed(TransientFailure):
    """The broker did not acknowledge in time. What was sent may still arrive: repeat it with the same item ids."""
