"""Tests of failing I/O, power loss, schedules and hostile bytes: a short slice of each here, the
full length as a program (`python -m tests.next_kind.failing_io` and its neighbours).
"""
