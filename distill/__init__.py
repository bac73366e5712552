"""Distillation by function matching: shared views, long schedules."""
