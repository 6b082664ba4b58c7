"""Preprocessing settings: what a user may write, and what it means."""

from __future__ import annotations

import pytest

from hpc_srct.errors import InputError
from hpc_srct.settings.base import load
from hpc_srct.settings.preprocessing import PreprocessingSettings, bytes_of


def read(*words: str) -> PreprocessingSettings:
    return load(PreprocessingSettings, overrides=words)


def test_views():
    assert read("views=1/6").low_views(13).tolist() == [0, 6, 12]
    assert read("views=1/6+2").low_views(13).tolist() == [2, 8]
    assert read("views=[4, 1]").low_views(13).tolist() == [4, 1]
    assert read("views=null").low_views(3).tolist() == [0, 1, 2]
    assert read("views=1/100").low_views(13).tolist() == [0]
    with pytest.raises(InputError, match="more than the scan's 2 views"):
        read("views=1/6+2").low_views(2)


@pytest.mark.parametrize("views", ["1/0", "2/3", "every", "1/4+4", "[1, 1]", "[]", "[-1]"])
def test_views_that_mean_nothing(views):
    with pytest.raises(InputError, match="views"):
        read(f"views={views}")


def test_rows():
    # YAML 1.1 would read 10:38 as the base-60 number 638.
    assert read("rows=10:38").chosen_rows(100) == range(10, 38)
    assert read("rows=:38").chosen_rows(100) == range(38)
    assert read("rows=90:").chosen_rows(100) == range(90, 100)
    assert read().chosen_rows(100) == range(100)
    for bad in ("rows=38:10", "rows=5:5", "rows=0:101"):
        with pytest.raises(InputError, match="within 0:100"):
            read(bad).chosen_rows(100)
    with pytest.raises(InputError, match="FIRST:STOP"):
        read("rows=a:b")


def test_amounts_of_memory():
    assert bytes_of("4GiB") == 4 * 2**30
    assert bytes_of("1.5 MB") == 1_500_000
    assert bytes_of("4096") == bytes_of("4096B") == 4096
    assert read("memory=4096").memory_bytes == 4096
    with pytest.raises(InputError, match="amount of memory"):
        read("memory=plenty")


def test_result_settings_leave_out_how_it_is_made():
    assert read("memory=1GiB", "scratch=/tmp").result() == read().result()
    assert read("floor=1e-4").result() != read().result()


def test_a_misspelt_key_names_its_neighbour():
    with pytest.raises(InputError, match="did you mean 'sinogram'"):
        read("sinograms=true")


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("rows=2", "'rows': expected text; found 2."),
        ("views=0.125", "'views': expected text or a list; found 0.125."),
        ("centre=abc", "'centre': expected a number or 'auto' or 'file'; found 'abc'."),
        ("padding=-1", "'padding': expected 0 or more or 'auto'; found -1."),
        ("rings=3", "'rings': expected 'none', 'sorting', 'all' or 'wavelet'; found 3."),
    ],
)
def test_wrong_values_are_answered_in_the_words_of_the_settings(word, answer):
    with pytest.raises(InputError) as error:
        load(PreprocessingSettings, overrides=[word])
    assert str(error.value) == f"settings: {answer}"


def test_angles_of_no_span_are_refused():
    with pytest.raises(InputError, match="'angle_range': expected two different angles"):
        load(PreprocessingSettings, overrides=["angle_range=[0,0]"])


@pytest.mark.parametrize(
    "word", ["centre=.nan", "centre=.inf", "gain=.inf", "angle_range=[0,.nan]"]
)
def test_numbers_that_are_none(word):
    with pytest.raises(InputError, match=rf"'{word.partition('=')[0]}.*finite"):
        read(word)
