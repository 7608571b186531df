"""Keys of the labelling page."""

from fieldrepair_service.console.class_keys import class_keys


def test_classes_are_counted_from_one() -> None:
    assert class_keys(["cat", "dog", "bird"]) == ["1", "2", "3"]


def test_who_sees_a_digit_presses_it() -> None:
    assert class_keys([str(number) for number in range(10)]) == list("0123456789")


def test_names_that_are_keys_keep_them_and_the_others_get_the_rest() -> None:
    assert class_keys(["other", "2", "B", "1", "b", "s"]) == ["3", "2", "b", "1", "4", "5"]


def test_no_key_twice_and_none_where_they_run_out() -> None:
    keys = class_keys([f"kind {number}" for number in range(40)])
    given = [key for key in keys if key]
    assert len(given) == len(set(given)) == 30
    assert keys[30:] == [""] * 10
    assert not set(given) & set("elnpsu")
