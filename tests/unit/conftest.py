"""Generated examples may take their time: a machine that is busy is no fault of theirs."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")
