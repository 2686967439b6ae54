"""Answers as text, markdown, JSON, JUnit, annotations and HTML."""
