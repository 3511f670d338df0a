"""How a table lies in Redis: its keys, what stands before each row, and the scripts that change it.

Every key begins with ``namespace:{table``, both percent-encoded, so that neither holds a ``:``, ``{`` or
``}`` and no two tables share a key, whatever their ids or entities hold. What is between the braces is
the hash tag by which a cluster places keys: a table's rows lie in ``BUCKETS`` places, its bookkeeping in
one more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import NamedTuple
from urllib.parse import quote
from zlib import crc32

from infra.storage.codec import Batch
from infra.storage.redis_server import Command

BUCKETS = 64
"""In how many places a table's rows lie: enough to spread over a cluster, few enough to ask all of them."""

FORMAT = 1
"""The version of this layout, kept with each table."""

# Before a row stand its order, when it ends and whether it is a tombstone. Scripts read them: numbers in Lua
# are doubles, exact below 2**53 only, so they compare words of 32 bits, which an offset keeps from being negative.
_HEADER = Struct(">IQQIB")
HEADER = _HEADER.size
"""How many bytes stand before a row."""

_LAST_SECOND = (1 << 32) - 1
_SCRIPT_ROWS = 1_000  # rows of one script: other clients wait while it runs, and Lua's stack ends at 8,000 values
_GRANULES = 128  # parts of a ttl by which rows that expire are counted

ABSORB = """
local header = '>I4I4I4I4I4I4B'
local found = redis.call('MGET', unpack(KEYS, 2))
local rows, put, counts, won = #KEYS - 1, {}, {}, 0
local function count(ends, deleted, by)
  if deleted == 0 then counts[ends] = (counts[ends] or 0) + by end
end
for i = 1, rows do
  local old, new, life = found[i], ARGV[i], ARGV[rows + i]
  local ends, deleted = struct.unpack('>I4B', new, 21)
  local write = true
  if old then
    local a, b, c, d, e = struct.unpack(header, new)
    local p, q, r, s, t, ended, was_deleted = struct.unpack(header, old)
    local by = a ~= p and a - p or b ~= q and b - q or c ~= r and c - r or d ~= s and d - s or e - t
    if by > 0 then
      won = won + 1
    elseif by == 0 and (life or ended ~= 0) then
      new, deleted = string.sub(new, 1, 24) .. string.sub(old, 25), was_deleted
    else
      write = false
    end
    if write then count(ended, was_deleted, -1) end
  else
    won = won + 1
  end
  if write then
    count(ends, deleted, 1)
    if life then
      redis.call('SET', KEYS[i + 1], new, 'PX', life)
    else
      put[#put + 1] = KEYS[i + 1]
      put[#put + 1] = new
    end
  end
end
if #put > 0 then redis.call('MSET', unpack(put)) end
for ends, by in pairs(counts) do
  if by ~= 0 then redis.call('HINCRBY', KEYS[1], string.format('%.0f', ends), string.format('%.0f', by)) end
end
return won
"""
"""Writes the rows that win over those that are there; returns how many did.

KEYS: the bucket's counts, then rows of that bucket. ARGV: a row each, then, where rows expire, their
lives in ms. A row of equal order is the same row: it gets the new life and stays otherwise.
"""

COUNT = """
local total, now, passed = 0, tonumber(ARGV[1]), tonumber(redis.call('TIME')[1])
local counts = redis.call('HGETALL', KEYS[1])
for i = 1, #counts, 2 do
  local ends = tonumber(counts[i])
  if ends == 0 or ends > now then
    total = total + tonumber(counts[i + 1])
  elseif ends <= passed then
    redis.call('HDEL', KEYS[1], counts[i])
  end
end
return total
"""
"""How many rows of a bucket are there at the second ARGV[1]; forgets counts that passed by the server's clock too."""

LEARN = """
if (redis.call('HGET', KEYS[1], 'digest') or '') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'format', ARGV[2], 'digest', ARGV[3], 'codec', ARGV[4])
return 1
"""
"""Replaces the codec that has the digest ARGV[1]; returns 0 where another client was faster."""

PUBLISH = """
local at = redis.call('HGET', KEYS[1], 'watermark') or '0'
if tonumber(at) < tonumber(ARGV[1]) then return -1 end
if tonumber(at) < tonumber(ARGV[2]) then
  redis.call('RPUSH', KEYS[2], at .. ' ' .. ARGV[2] .. ' ' .. ARGV[3])
  redis.call('HSET', KEYS[1], 'watermark', ARGV[2])
end
if ARGV[4] ~= '' then redis.call('HSET', KEYS[1], 'ttl', ARGV[4]) end
return 1
"""
"""Moves the watermark from at least ARGV[1] to ARGV[2] and keeps the publication; -1 where it fell meanwhile."""

NOTE_PUSH = """
local old = redis.call('HGET', KEYS[1], 'pushed')
local a, b = struct.unpack('>I4I4', ARGV[1])
if old then
  local p, q = struct.unpack('>I4I4', old)
  if p > a or (p == a and q >= b) then return 0 end
end
redis.call('HSET', KEYS[1], 'pushed', ARGV[1])
return 1
"""
"""Raises the stamp up to which pushes are here, eight big-endian bytes."""


@dataclass(frozen=True)
class Life:
    """How long rows of a table live from ``now`` on, both in µs; without a ``ttl``, for ever.

    A row lives until event_timestamp + ttl. One that is past it needs not be written: in its epoch every
    row that loses to it is older, so past it as well. Rows of a raised epoch, though, win over younger
    ones; they live for a whole ttl from now, after which whatever they win over is past.
    """

    ttl: int | None
    now: int

    def of(self, epoch: int, event: int) -> int | None:
        """The life of a row in ms, at least 1; None where it is past."""
        assert self.ttl is not None
        left = event + self.ttl - self.now
        if epoch > 0:
            left = max(left, self.ttl)
        return None if left < 0 else max(1, -(-left // 1_000))

    def end(self, life: int) -> int:
        """The second by which a row of that life is no longer counted: it is gone by then."""
        assert self.ttl is not None
        granule = 1 << (self.ttl // 1_000_000 // _GRANULES).bit_length()
        return min(-(-(self.now // 1_000 + life) // (granule * 1_000)) * granule, _LAST_SECOND)


class _Packed(NamedTuple):
    """Rows of one bucket, as arguments of a script."""

    keys: list[bytes]
    values: list[bytes]
    lives: list[int]


class TableKeys:
    """The keys of one table."""

    def __init__(self, namespace: str, table_id: str) -> None:
        start = f"{quote(namespace, safe='')}:{{{quote(table_id, safe='')}"
        self.about = f"{start}}}".encode()
        self.published = f"{start}}}p".encode()
        self._buckets = [f"{start}:{number:02x}}}".encode() for number in range(BUCKETS)]

    @property
    def counts(self) -> list[bytes]:
        """Of each bucket, where its rows are counted by the second in which they end; 0: never.

        No row's key goes on with a letter.
        """
        return [bucket + b"n" for bucket in self._buckets]

    def row(self, key: bytes) -> bytes:
        """Where the row of an entity is."""
        return self._buckets[bucket_of(key)] + key

    def absorb(self, batch: Batch, life: Life) -> list[Command]:
        """The commands that write a batch of rows where they win."""
        return [
            ("EVAL", ABSORB, 1 + len(keys), self._buckets[bucket] + b"n", *keys, *values, *lives)
            for bucket, packed in self._by_bucket(batch, life).items()
            for keys, values, lives in _parts(packed)
        ]

    def _by_bucket(self, batch: Batch, life: Life) -> dict[int, _Packed]:
        found: dict[int, _Packed] = {}
        rows = zip(batch.keys, batch.values, batch.orders, batch.deleted, strict=True)
        for key, value, (epoch, event, created), deleted in rows:
            end, left = 0, None
            if life.ttl is not None:
                left = life.of(epoch, event)
                if left is None:
                    continue
                end = life.end(left)
            bucket = crc32(key) % BUCKETS
            packed = found.get(bucket)
            if packed is None:
                packed = found[bucket] = _Packed([], [], [])
            packed.keys.append(self._buckets[bucket] + key)
            packed.values.append(_HEADER.pack(epoch + 2**31, event + 2**63, created + 2**63, end, deleted) + value)
            if left is not None:
                packed.lives.append(left)
        return found


def tag_of(row: bytes) -> bytes:
    """By which a cluster places a row: what stands between the first braces of its key."""
    return row[row.index(b"{") + 1 : row.index(b"}")]


def bucket_of(key: bytes) -> int:
    """In which bucket an entity's row lies."""
    return crc32(key) % BUCKETS


def _parts(packed: _Packed) -> Iterator[tuple[Sequence[bytes], Sequence[bytes], Sequence[int]]]:
    for start in range(0, len(packed.keys), _SCRIPT_ROWS):
        part = slice(start, start + _SCRIPT_ROWS)
        yield packed.keys[part], packed.values[part], packed.lives[part]
