"""Comparison of codes that forgives ties."""

import numpy as np


def assert_same_codes(ours, theirs, quantizer, latents, *, margin=1e-4):
    """Codes [B, K, T] may differ only where two entries are equally near; what follows may then.

    Two entries are equally near if their squared distances differ by less than `margin` of the
    mean squared distance. Returns the share of frames that are equal in all codebooks.
    """
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    latents = np.asarray(latents, np.float64)
    assert ours.shape == theirs.shape
    parts = [(quantizer.semantic, 0, 1)]
    if ours.shape[1] > 1:
        parts.append((quantizer.acoustic, 1, ours.shape[1]))
    for part, first, last in parts:
        rest = latents @ np.asarray(part.project_in.kernel[...], np.float64)
        alive = np.ones(rest.shape[:2], bool)
        for codebook, k in zip(part.codebooks, range(first, last), strict=False):
            vectors = np.asarray(codebook.vectors(), np.float64)
            a, b = (np.square(rest - vectors[codes[:, k]]).sum(-1) for codes in (ours, theirs))
            scale = np.square(rest).sum(-1) + np.square(vectors).sum(-1).mean()
            gap = np.abs(a - b) / scale
            different = (ours[:, k] != theirs[:, k]) & alive
            assert gap[different].max(initial=0) < margin, f"codebook {k}: {gap[different].max()}"
            alive &= ~different
            rest = rest - vectors[theirs[:, k]]
    return (ours == theirs).all(axis=1).mean()


def assert_codes_vary(codes, least=0.3):
    """Every codebook must use many entries; equal codes would make a comparison empty."""
    for k in range(codes.shape[1]):
        distinct = len(np.unique(np.asarray(codes)[:, k]))
        assert distinct > least * codes[:, k].size, f"codebook {k} has {distinct} distinct codes"
