"""What the doctor says of machines that are not this one."""

from __future__ import annotations

import pytest

from hpc_srct.workflows import doctor


@pytest.mark.parametrize(
    ("states", "tunables", "ok", "helped"),
    [
        ("[always] madvise never", "", True, False),
        ("always [madvise] never", "", False, True),
        ("always [madvise] never", "glibc.malloc.hugetlb=1", True, False),
        ("always madvise [never]", "", False, False),
    ],
)
def test_huge_pages(states, tunables, ok, helped, tmp_path, monkeypatch):
    (tmp_path / "enabled").write_text(states + "\n")
    monkeypatch.setattr(doctor, "HUGE_PAGES", tmp_path / "enabled")
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    checks = {check.name: check for check in doctor.examine()}
    assert checks["huge pages"].ok == ok
    assert ("GLIBC_TUNABLES" in checks["huge pages"].note) == helped
    assert not checks["huge pages"].needed


def test_no_word_of_huge_pages_where_the_system_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "HUGE_PAGES", tmp_path / "nowhere")
    assert "huge pages" not in {check.name for check in doctor.examine()}
