"""The knowledge pool: what was imported from other farms, which platforms were probed, and how alike members are.

Nothing of the farm's own points at entries, and no answer of it reads them.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB

from benchfarm_core.measurements import Timing
from benchfarm_store.schema import at, metadata, one_of

pool_entries = Table(
    "pool_entries",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("account_id", ForeignKey("accounts.id"), nullable=False),
    at("imported_at"),
    at("compared_at", nullable=True),
    Column("stored_bytes", BigInteger, nullable=False, comment="what the account pays for it"),
    Column("probes_version", SmallInteger, nullable=False, comment="of the probe set that `probes` is of"),
    Column("public_id", Text, nullable=False, unique=True, comment="of the contents: the same again is the same"),
    Column("key", Text, nullable=False, comment="of the platform, as the farm of origin has it"),
    Column("author", Text, nullable=False),
    Column("manifest", JSONB, nullable=False, comment="origin, platform, licence, source, what there is"),
    Column("probes", JSONB, nullable=False, comment="times of probes by timing and workload"),
    Column("rows", LargeBinary, nullable=False, comment="as they lay in the pool file"),
    comment="platforms of others, imported: possible donors, never answers as ours",
)

pool_predictors = Table(
    "pool_predictors",
    metadata,
    Column("entry_id", ForeignKey("pool_entries.id", ondelete="CASCADE"), nullable=False),
    Column("subject", Text, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("file", LargeBinary, nullable=False),
    PrimaryKeyConstraint("entry_id", "subject"),
    comment="the predictors that entries brought",
)

probed_platforms = Table(
    "probed_platforms",
    metadata,
    Column("platform_id", ForeignKey("platforms.id"), primary_key=True),
    Column("probes", Integer, nullable=False, comment="results of the probe set that were compared"),
    at("newest_at"),
    at("compared_at"),
    Column("probes_version", SmallInteger, nullable=False),
    Column("rule_version", SmallInteger, nullable=False, comment="of the summaries"),
    comment="what of each platform's probes was compared: where there is other now, it is compared again",
)

likenesses = Table(
    "likenesses",
    metadata,
    Column("target_id", ForeignKey("platforms.id"), nullable=False),
    Column("count", Integer, nullable=False, comment="probes that both have"),
    Column("divergence", Double, nullable=False),
    Column("low", Double, nullable=False),
    Column("high", Double, nullable=False),
    Column("spearman", Double),
    Column("log_ratio_variance", Double, nullable=False),
    at("compared_at"),
    Column("probes_version", SmallInteger, nullable=False),
    Column("is_near", Boolean, nullable=False),
    Column("donor", Text, nullable=False, comment="the public id of a platform or an entry"),
    Column("subject", Text, nullable=False),
    Column("timing", Text, nullable=False),
    PrimaryKeyConstraint("target_id", "subject", "timing", "donor"),
    one_of("timing", Timing),
    Index("ix_likenesses_donor", "donor"),
    comment="how alike a donor is to a target in one subject, over the probe set",
)
