"""A whole fleet in one process, on invented time: the coordinator's real core and small fake agents.

The agents hold their files as a dict of entries and answer as real agents do: they scan, stream roots,
keep fences, converge and verify, each taking some invented time. Everything that the core persists is
kept in dicts, so that the coordinator can be killed and started again between any two events. Objects,
records and messages obey the order of the effects; an effect that is not durable in time fails the test.
"""

from .agents import FakeAgent
from .world import FakeWorld, file_of, key_of, volume_config

__all__ = ["FakeAgent", "FakeWorld", "file_of", "key_of", "volume_config"]
