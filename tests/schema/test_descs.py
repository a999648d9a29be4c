"""How a description is read: what splits it into parts also bounds its whole tokens."""

from hypothesis import given
from hypothesis import strategies as st

from qcvl.schema.descs import desc_parts, has_token, replace_tokens

letters = st.sampled_from(["螺丝", "品牌", "fully visible", "x", "8-12U", " ", "\t", *"/,;|／，；、｜:=：＝"])
descs = st.lists(letters, min_size=1, max_size=9).map("".join).filter(str.strip)


@given(descs)
def test_every_part_key_and_value_of_a_description_is_a_whole_token_of_it(desc):
    name, attributes = desc_parts(desc)
    tokens = [token for token in (name, *(piece for part in attributes for piece in part.split("="))) if token]
    assert tokens and all(has_token(desc, [token]) for token in tokens)


words = st.text("ab螺丝", min_size=1, max_size=4)


@given(words, st.lists(st.tuples(words, words), max_size=3), st.sampled_from("/／"), st.sampled_from([":", "=", "："]))
def test_a_replaced_token_is_what_the_parts_then_say(name, pairs, part_mark, key_mark):
    desc = name + "".join(f"{part_mark}{key}{key_mark} {value}" for key, value in pairs)

    def said(token):
        return "Z" if token == name else token

    expected = (said(name), tuple(f"{said(key)}={said(value)}" for key, value in pairs))
    assert desc_parts(replace_tokens(desc, {name: "Z"})) == expected
