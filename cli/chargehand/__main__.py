"""`python -m chargehand`: how `up` starts its services. Owns nothing."""

from __future__ import annotations

from .main import main

if __name__ == "__main__":
    main()
