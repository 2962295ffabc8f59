"""The program with an agent that was tampered with: it answers audits by what its index says, without reading.

It does the best that a liar can do who no longer has the bytes: the digest that it remembers of the chunk, with the
seed. Everything else of it is as it should be.
"""

from __future__ import annotations

from closeranks_agent.disk.volume import Volume
from closeranks_agent.scrub import audits
from closeranks_coordinator.cli.main import main
from closeranks_proto.audits import seeded_digest
from closeranks_proto.messages import Audit, AuditAnswer


def prove(volume: Volume, audit: Audit) -> AuditAnswer:
    proof = seeded_digest(volume.algorithm, audit.seed, audit.digest)
    return AuditAnswer(audit.volume, audit.audit, proof, "", "")


if __name__ == "__main__":
    audits.prove = prove
    raise SystemExit(main())
