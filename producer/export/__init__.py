"""Transcripts as files: text, subtitles, JSON, tables and pages."""
