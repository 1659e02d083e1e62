"""Palate takes a language model from demonstrations and human preferences to an aligned model, and proves each stage."""

from __future__ import annotations

__version__ = "0.1.0"
