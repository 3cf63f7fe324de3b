"""Typed modules from workflows, through datamodel-code-generator."""
