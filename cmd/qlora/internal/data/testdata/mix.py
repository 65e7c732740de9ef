"""Prints what TestMixBits wants: the specifications of data.Mix and data.Split, and of ref/num's Philox, in Python's integers."""
from fractions import Fraction

M = 0xFFFFFFFF


def philox(ctr, key):
    c, k = list(ctr), list(key)
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & M, (p0 >> 32) ^ c[3] ^ k[1], p0 & M]
        k = [(k[0] + 0x9E3779B9) & M, (k[1] + 0xBB67AE85) & M]
    return c


def fnv1a(name):
    h = 0x811C9DC5
    for b in name.encode():
        h = (h ^ b) * 0x01000193 & M
    return h


def shuffled(n, seed, purpose, step, layer):
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        block = i // 4
        bits = philox([block & M, layer << 16 | block >> 32, step, fnv1a(purpose)], [seed & M, seed >> 32])[i % 4]
        j = bits * (i + 1) >> 32
        order[i], order[j] = order[j], order[i]
    return order


def mix(counts, weights, seed):
    taken, picks = [0] * len(counts), []
    while any(t < c for t, c in zip(taken, counts)):
        s = min(range(len(counts)), key=lambda i: (Fraction(2 * taken[i] + 1) / weights[i], i))
        order = shuffled(counts[s], seed, "data mix", taken[s] // counts[s], s)
        picks.append((s, order[taken[s] % counts[s]]))
        taken[s] += 1
    return picks


print(mix([5, 3], [Fraction(7, 10), Fraction(3, 10)], 7))
print(sorted(shuffled(10, 7, "data split", 0, 0xFFFF)[:3]))
