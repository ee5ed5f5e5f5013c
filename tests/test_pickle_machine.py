"""The shared machine follows plain values only; whatever else is asked for is named and refused."""

import io
import struct
import time

import pytest

from sdejax.pickle_machine import Name, Rules, run_pickle

START = b"\x80\x02"
PAIR = {"fractions Fraction": lambda *of: ("pair", *of), "a b": None}


def run(raw, **rules):
    given = {"names": PAIR, "instructions": 10**5, "made": 100, **rules}
    return run_pickle(io.BytesIO(raw), Rules(**given))


def test_plain_values():
    raw = START + b"}(X\x01\x00\x00\x00aK\x05K\x07](N\x88\x89G" + struct.pack(">d", 0.5) + b"eu."
    assert run(raw) == {"a": 5, 7: [None, True, False, 0.5]}


OTHERS = {
    "three in a tuple": (b"K\x01K\x02K\x03\x87.", (1, 2, 3)),
    "one by one": (b"}K\x01]K\x02as.", {1: [2]}),
    "a marked list and dict": (b"(K\x01(K\x02K\x03dl.", [1, {2: 3}]),
    "text of Python 2": (b"(S'a'\nU\x01bt.", (b"a", b"b")),
    "the memo": (b"(K\x09q\x00\x94h\x01h\x00t.", (9, 9, 9)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_ways_to_write_them(name):
    raw, want = OTHERS[name]
    assert run(b"\x80\x04" + raw) == want


def test_names_are_collected_and_never_looked_up():
    assert run(START + b"cfractions\nFraction\n(K\x01K\x02tR.") == ("pair", 1, 2)
    assert run(b"\x80\x04\x8c\x09fractions\x8c\x08Fraction\x93)R.") == ("pair",)
    name = run(START + b"ca\nb\n.")
    assert isinstance(name, Name)
    assert str(name) == "a.b"


def test_the_stream_stops_behind_the_value():
    stream = io.BytesIO(START + b"K\x01." + START + b"K\x02.rest")
    rules = Rules({}, 10, 0)
    assert [run_pickle(stream, rules) for _ in range(2)] == [1, 2]
    assert stream.read() == b"rest"


def test_persistent_ids_and_states_are_the_callers():
    def build(target, state):
        target["state"] = state

    assert run(START + b"(K\x01K\x02tQ.", persistent=lambda i: ("id", i)) == ("id", (1, 2))
    assert run(b"Pa b\n.", persistent=lambda i: ("id", i)) == ("id", "a b")
    assert run(START + b"}K\x03b.", build=build) == {"state": 3}


# Sixty tuples, each holding the one before it twice.
LAUGHS = b"\x80\x04)" + b"".join(b"\x94h" + bytes([i]) + b"\x86" for i in range(60))
FRACTION = b"cfractions\nFraction\n"
REFUSED = {
    "a name": (b"cos\nsystem\n(X\x01\x00\x00\x00xtR.", "it asks for os.system"),
    "a name of the stack": (b"\x8c\x08builtins\x8c\x04eval\x93.", "it asks for builtins.eval"),
    "a name inside another": (b"\x8c\x01a\x8c\x03b.c\x93.", "it asks for a.b.c"),
    "a name that is a tuple": (b")\x8c\x04eval\x93.", "a name that is no text"),
    "a name that is a name": (b"ca\nb\n\x8c\x04eval\x93.", "a name that is no text"),
    "a call of a name that is none": (b"ca\nb\n)R.", "it calls a.b"),
    "a call of text": (b"X\x01\x00\x00\x00a)R.", "it calls what is no name"),
    "a call of a call": (FRACTION + b")R)R.", "it calls what is no name"),
    "a call without a tuple": (FRACTION + b"]R.", "it calls what is no name"),
    "an instance": (b"(X\x01\x00\x00\x00xios\nsystem\n.", "instruction INST of os system"),
    "an object": (b"(ca\nb\no.", "instruction OBJ"),
    "a new object": (b"ca\nb\n)\x81.", "instruction NEWOBJ"),
    "a new object with keywords": (b"ca\nb\n)}\x92.", "instruction NEWOBJ_EX"),
    "an extension": (b"\x82\x01.", "instruction EXT1"),
    "a longer extension": (b"\x84\x01\x00\x00\x00.", "instruction EXT4"),
    "a buffer": (b"\x97.", "instruction NEXT_BUFFER"),
    "a set": (b"\x8f.", "instruction EMPTY_SET"),
    "a copy of the stack": (b"K\x012.", "instruction DUP"),
    "a huge integer": (b"\x8b" + struct.pack("<i", 10**6) + bytes(10**6) + b".", "LONG4"),
    "an integer of endless digits": (b"L" + b"9" * 10**5 + b"L\n.", "limit"),
    "a persistent id": (b"Pcos.system\n.", "persistent id"),
    "a persistent id of the stack": (b"NQ.", "persistent id"),
    "a state": (b"}}b.", "state of what has none"),
    "a key that is a tuple": (b"})Ns.", "a key of type tuple"),
    "a key that is a list": (b"}]Ns.", "a key of type list"),
    "a key that is a name": (b"}ca\nb\nNs.", "a key of type Name"),
    "a key that is a number": (b"}G" + bytes(8) + b"Ns.", "a key of type float"),
    "a key of many bits": (b"}\x8a\x09" + b"\x01" * 9 + b"Ns.", "a number of 64 bits"),
    "a place of many bits": (b"}p" + b"9" * 40 + b"\n.", "a number of 64 bits"),
    "a key that takes for ever": (b"}" + LAUGHS[2:] + b"Ns.", "a key of type tuple"),
    "a key twice": (b"}(K\x01NK\x01Nu.", "the key '1' twice"),
    "a key without a value": (b"}(K\x01NK\x02u.", "a key without a value"),
    "an item of a list": (b"]K\x01Ns.", "what is no dict"),
    "more of a dict": (b"}Na.", "what is no list"),
    "a stack that is empty": (b"a.", "more values than there are"),
    "a tuple of what is not there": (b"N\x87.", "a tuple of 3 from 1 values"),
    "a place that is empty": (b"h\x05.", "KeyError"),
    "a mark that is not there": (b"t.", "IndexError"),
    "two values": (b"NN.", "ends with 2 values"),
    "no value": (b".", "ends with 0 values"),
    "a mark too many": (b"(N.", "1 marks"),
    "no end": (b"N", "before seeing STOP"),
    "text of a length that lies": (b"X\xff\xff\xff\x7fa.", "expected 2147483647 bytes"),
    "bytes of a length that lies": (b"\x8e" + b"\xff" * 7 + b"\x7fa.", "bytes"),
    "no instruction": (b"\xff.", "opcode b'\\\\xff' unknown"),
    "too many instructions": (b"]" + b"Na" * 10**5 + b".", "more than 100000 instructions"),
    "marks in marks": (b"(" * 10**6 + b".", "more than 100000 instructions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    raw, says = REFUSED[name]
    start = time.perf_counter()
    with pytest.raises(ValueError, match=says) as caught:
        run(START + raw)
    assert time.perf_counter() - start < 10  # seconds, beside others; each takes less than one
    assert len(str(caught.value)) < 400
    assert caught.value.__cause__ is None


def test_bytes_that_calls_make_are_counted():
    names = {"a encode": lambda text: text.encode()}
    call = b"ca\nencode\nX\x03\x00\x00\x00abc\x85R"
    assert run(START + b"(" + call * 3 + b"t.", names=names, made=9) == (b"abc",) * 3
    with pytest.raises(ValueError, match="make more bytes than it has"):
        run(START + b"(" + call * 4 + b"t.", names=names, made=9)


def test_what_costs_nothing_until_somebody_walks_through_it():
    assert len(run(LAUGHS + b".")) == 2


def test_a_list_inside_itself_is_made():
    found = run(START + b"]q\x00h\x00a.")
    assert found[0] is found
