"""Writes messages.parquet, a file of our own in the form in which data sets are published. Made with pyarrow 26.0.1."""
import datetime

import pyarrow as pa
import pyarrow.parquet as pq


def turns(*pairs):
    return [{"role": role, "content": content} for role, content in pairs]


table = pa.table({
    "messages": pa.array([
        turns(("system", "Be brief."), ("user", "Name a colour."), ("assistant", "Blue, naïvely.")),
        turns(("user", ""), ("assistant", "?"), ("user", "Go on.")),
        turns(("user", "Name a colour."), ("assistant", "Red.")),
    ], pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    "category": pa.array(["chat", "chat", "other"]).dictionary_encode(),
    "note": pa.array(["first", None, "last"]),
    "count": pa.array([9007199254740993, -1, 0], pa.int64()),
    "score": pa.array([0.5, 0.1, -3], pa.float32()),
    "good": pa.array([True, False, True]),
    "made": pa.array([datetime.datetime(2026, 11, 25)] * 3, pa.timestamp("us")),
    "tags": pa.array([["a", None], [], None], pa.list_(pa.large_string())),
    "source": pa.array([{"name": "ours", "page": 1}, None, {"name": None, "page": 2}]),
    "nothing": pa.nulls(3),
})
pq.write_table(table, "messages.parquet", compression="snappy", use_dictionary=True, row_group_size=2)
