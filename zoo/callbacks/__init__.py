"""Callbacks: what watches a run, keeps it, and says how it goes. Import them from their modules."""
