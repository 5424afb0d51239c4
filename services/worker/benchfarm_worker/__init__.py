"""Celery workers: they plan jobs, offer batches to boards, and sweep up what was lost.

Tasks carry ids only and may run twice; Postgres is the truth and the broker a hint.
"""
