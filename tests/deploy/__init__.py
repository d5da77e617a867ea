"""Tests of deploy/: what a demo shows, waits for, and ends."""
