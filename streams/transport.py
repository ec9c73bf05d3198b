"""Placeholder: filled by the first commit of streams."""
