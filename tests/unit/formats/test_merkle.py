# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""RFC 6962 trees against the published vectors of certificate-transparency."""

from __future__ import annotations

import pytest

from edgeprov.errors import DigestMismatch, FormatError
from edgeprov.formats import merkle
from edgeprov.formats.merkle import MerkleBuilder, inclusion_path, verify_inclusion

LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


@pytest.mark.parametrize("size", range(9))
def test_published_roots(size: int) -> None:
    assert merkle.root(LEAVES[:size]).hex() == ROOTS[size]
    builder = MerkleBuilder()
    for leaf in LEAVES[:size]:
        builder.add(leaf)
    assert builder.root().hex() == ROOTS[size]
    assert builder.size == size


def test_adding_in_bulk_gives_the_same_tree_wherever_it_is_cut() -> None:
    leaves = [b"%d" % number for number in range(2600)]
    one_by_one = MerkleBuilder()
    for leaf in leaves:
        one_by_one.add(leaf)
    for cut in (0, 1, 2, 3, 7, 8, 1000, 1023, 1024, 1025, 2048, 2599):
        builder = MerkleBuilder()
        builder.add_all(leaves[:cut])
        builder.root()
        builder.add_all(leaves[cut:])
        assert builder.root() == one_by_one.root()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13, 64, 65])
def test_every_leaf_has_a_path_and_no_other_leaf_fits_it(size: int) -> None:
    leaves = [b"%d" % number for number in range(size)]
    root = merkle.root(leaves)
    for index, leaf in enumerate(leaves):
        path = inclusion_path(leaves, index)
        verify_inclusion(leaf, index, size, path, root)
        with pytest.raises(DigestMismatch):
            verify_inclusion(b"other", index, size, path, root)
        with pytest.raises((DigestMismatch, FormatError)):
            verify_inclusion(leaf, (index + 1) % size if size > 1 else 1, size, path, root)
        with pytest.raises(FormatError):
            verify_inclusion(leaf, index, size, [*path, bytes(32)], root)
        if path:
            with pytest.raises(FormatError):
                verify_inclusion(leaf, index, size, path[:-1], root)
            with pytest.raises(DigestMismatch):
                verify_inclusion(leaf, index, size, [bytes(32), *path[1:]], root)


def test_a_node_is_no_leaf() -> None:
    # Without the 0x00 and 0x01 prefixes the pair of leaf hashes would pass as a record.
    leaves = [b"a", b"b"]
    hashes = [merkle.root([leaf]) for leaf in leaves]
    assert merkle.root([b"".join(hashes)]) != merkle.root(leaves)
    with pytest.raises(DigestMismatch):
        verify_inclusion(b"".join(hashes), 0, 1, [], merkle.root(leaves))


@pytest.mark.parametrize(("index", "size", "path"), [(-1, 2, []), (2, 2, []), (0, 0, []), (0, 2, [b"short"])])
def test_impossible_paths_are_refused(index: int, size: int, path: list[bytes]) -> None:
    with pytest.raises(FormatError):
        verify_inclusion(b"a", index, size, path, bytes(32))


def test_there_is_no_path_for_a_leaf_that_is_not_there() -> None:
    for index in (-1, 2):
        with pytest.raises(FormatError):
            inclusion_path([b"a", b"b"], index)
