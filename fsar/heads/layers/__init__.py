"""Modules and functions that several methods share."""
