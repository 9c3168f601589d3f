#!/usr/bin/env python3
"""Writes goldens/: small tokenizers of every kind, strings, and what Hugging Face's `tokenizers` gives.

Run once, with `pip install tokenizers==0.23.3` and Python 3.11; the output is kept in the repository.
  strings.json           texts to encode
  NAME.tokenizer.json    trained here on Python's own documentation and the sentences below
  NAME.ids               line i: the ids of text i, special tokens added
  NAME.decoded.json      [ids, decode(ids), decode(ids, skip_special_tokens=False)]
"""
import glob
import json
import os
import pydoc_data.topics
import random
import unicodedata

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "goldens")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SENTENCES = """The quick brown fox jumps over the lazy dog, doesn't it? I'LL say he's RIGHT; we've won.
Größenwahn und Übermut tun selten gut: Straße, Fuß, Maß. Ça va très bien, merci à l'été.
Быстрая коричневая лиса прыгает через ленивую собаку. Привет, мир! Їжак, ґанок.
Η γρήγορη καφέ αλεπού πηδάει πάνω από το τεμπέλικο σκυλί. Ὦ ξεῖν’, ἀγγέλλειν.
שלום עולם, מה שלומך היום? בְּרֵאשִׁית בָּרָא אֱלֹהִים
مرحبا بالعالم، كيف حالك اليوم؟ بِسْمِ ٱللَّهِ ٱلرَّحْمَٰنِ ١٢٣٤٥
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है। १२३
মানুষ স্বাধীনভাবে সমান মর্যাদা এবং অধিকার নিয়ে জন্মগ্রহণ করে।
தமிழ் மொழி உலகின் பழமையான மொழிகளில் ஒன்று.
ภาษาไทยเขียนโดยไม่เว้นวรรคระหว่างคำ น้ำใจไมตรี ๑๒๓
人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。
吾輩は猫である。名前はまだ無い。コンピュータ・プログラム ﾊﾝｶｸ ｶﾞ
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
ყველა ადამიანი იბადება თავისუფალი. Բոլոր մարդիկ ծնվում են ազատ:
ሰላም ለዓለም። ᠮᠣᠩᠭᠣᠯ ᠪᠢᠴᠢᠭ བོད་སྐད། မြန်မာစာ ភាសាខ្មែរ ພາສາລາວ සිංහල
Tiếng Việt có dấu: Tất cả mọi người sinh ra đều được tự do. Tie\u0302\u0301ng Vie\u0323\u0302t
def f(x):\n    return {'a': x**2, "b": [1, 2.5e-3, 0xFF]}  # comment\n\n\tif x != 3:\r\n\t\tpass
<html><body class="x">&amp; &lt;p&gt; http://example.org/a?b=c&d=%20e</body></html>
SELECT * FROM t WHERE a >= 10 AND b <> 'it''s' -- ok\n#include <vector>\nint main() { return 0; }
3.14159 1,234,567.89 10:30 2024-01-31 +49 (0)30 123456 ½ ² Ⅷ ① 〇 ٣٫١٤ １２３
"""
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "❤️", "☃", "🧑🏿‍🚀", "1️⃣", "🫠", "🏴󠁧󠁢󠁥󠁮󠁧󠁿"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\v", "\f", "\u00a0", "\u0085",
          "\u1680", "\u180e", "\u2003", "\u2028", "\u2029", "\u200b", "\u202f", "\u3000", "\ufeff"]
ODD = ["\x00", "\x01", "\x1b[0m", "\x7f", "\x80", "\x9f", "\u00ad", "\u200c", "\u200d", "\u200e",
       "\u202e", "\u2060", "\ufffc", "\ufffd", "\ufffe", "\uffff", "\ue000", "\uf8ff",
       "\U000f0000", "\U0010ffff", "\u0378", "\U0001fffe", "\U000e0041", "\U00031350",
       "\U0002ebf0", "\U00010d40", "\U00011f50", "\U000105c0", "\u0897", "ſ", "K", "İ", "ı", "ß", "ẞ",
       "ﬁ", "ǅ", "Å", "Å", "e\u0301", "\u0301", "\u1100\u1161\u11a8", "각", "q\u0307\u0323", "ⓐ",
       "‿", "_", "▁", "▁▁", "Ġ", "Ċ", "Āā", "ª", "²", "٠", "<0x0A>", "<0xE4>", "<unk>", "'S", "'ſ",
       "’s", "'re", "'LL", "''", "a\u0300\u0301\u0302\u0303" + "\u0334" * 5]
SPECIAL = ["<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>",
           "<|", "<|im_", "<l>", "<r>", "<lr>", "word", "Word", "[N ormal]", "<Norm>", "éa"]


def training_text():
    text = [t for _, t in sorted(pydoc_data.topics.topics.items())]
    for name in sorted(glob.glob(os.path.join(os.path.dirname(os.__file__), "[a-d]*.py"))):
        with open(name, encoding="utf-8", errors="ignore") as f:
            text.append(f.read())
    lines = "\n".join(text).split("\n")
    return [line + "\n" for line in lines[::3]] + [s for s in SENTENCES.split("\n") for _ in range(60)]


def strings():
    r = random.Random(1)
    words = [w for s in SENTENCES.split("\n") for w in s.split(" ") if w]
    out = ["", " ", "\n", "a", "▁", " a", "  a", "a ", "\x00", "\u0301", "\r\n", "'s", "x" * 1500,
           "ab" * 700, " " * 600, "\n" * 300, " \n" * 150, "1" * 500, "é" * 300, "字" * 200,
           "😀" * 80, "a" + "\u0301" * 200, "".join(r.choice("abcdefgh") for _ in range(1500))]
    out += [s for s in SENTENCES.split("\n") if s]
    out += EMOJI + SPACES + ODD + SPECIAL
    out += [a + b for a in SPACES[:12] for b in SPACES[:12]]

    def assigned():
        while True:
            c = r.choice([r.randrange(0x250), r.randrange(0x3000), r.randrange(0x10000),
                          r.randrange(0x20000), r.randrange(0x110000)])
            if not 0xD800 <= c < 0xE000:
                return chr(c)

    pools = [lambda: r.choice(words) + " ", lambda: r.choice(words), lambda: r.choice(EMOJI),
             lambda: r.choice(SPACES), lambda: r.choice(ODD), lambda: r.choice(SPECIAL), assigned,
             lambda: str(r.randrange(10 ** r.randrange(1, 9))), lambda: r.choice(words)[:r.randrange(1, 4)],
             lambda: unicodedata.normalize(r.choice(["NFC", "NFD", "NFKC", "NFKD"]), r.choice(words))]
    while len(out) < 1250:
        some = r.sample(pools, r.randrange(1, 5))
        out.append("".join(r.choice(some)() for _ in range(r.randrange(2, 9))))
    return out


def train(vocab_size, pre, specials, alphabet=(), normalizer=None):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre
    if normalizer:
        t.normalizer = normalizer
    t.train_from_iterator(training_text(), trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=specials, initial_alphabet=list(alphabet),
        limit_alphabet=350, show_progress=False))
    return json.loads(t.to_str())


def added(content, id, **flags):
    entry = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
    entry.update(flags)
    return entry


def component(c):
    return json.loads(c.__getstate__())


def with_added(t, tokens):
    """Appends added tokens behind the vocabulary; those already in it keep their id."""
    vocab = t["model"]["vocab"]
    next_id = len(vocab)
    t["added_tokens"] = []
    for content, flags in tokens:
        id = vocab.get(content, next_id)
        next_id += content not in vocab
        t["added_tokens"].append(added(content, id, **flags))


def byte_level(pre, vocab_size=700):
    return train(vocab_size, pre, [], pre_tokenizers.ByteLevel.alphabet())


def sentencepiece(vocab_size=1000):
    specials = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    t = train(vocab_size, pre_tokenizers.Metaspace(), specials)
    t["model"].update(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    t["decoder"] = component(decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
        decoders.Strip(" ", 1, 0)]))
    t["pre_tokenizer"] = None
    with_added(t, [(s, {}) for s in ["<unk>", "<s>", "</s>"]])
    t["post_processor"] = component(processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]))
    return t


def gpt2():
    t = byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    t["decoder"] = component(decoders.ByteLevel())
    t["post_processor"] = component(processors.ByteLevel(trim_offsets=False))
    t["model"]["merges"] = [" ".join(m) for m in t["model"]["merges"]]
    with_added(t, [("<|endoftext|>", {})])
    return t


def split_byte_level(pattern):
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def llama3():
    t = byte_level(split_byte_level(LLAMA3))
    t["decoder"] = component(decoders.ByteLevel())
    t["model"]["ignore_merges"] = True
    r = random.Random(2)  # words that merges do not reach, so that ignore_merges is seen
    t["model"]["merges"] = [m for m in t["model"]["merges"] if r.random() > 0.1]
    with_added(t, [("<|begin_of_text|>", {}), ("<|endoftext|>", {}), ("<|im_end|>", {})])
    bos = t["added_tokens"][0]["id"]
    t["post_processor"] = component(processors.Sequence([
        processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing(
            single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
            special_tokens=[("<|begin_of_text|>", bos)])]))
    return t


def qwen2():
    t = byte_level(split_byte_level(QWEN2))
    t["normalizer"] = {"type": "NFC"}
    t["decoder"] = component(decoders.ByteLevel())
    with_added(t, [("<|endoftext|>", {}), ("<|im_start|>", {}), ("<|im_end|>", {}),
                   ("<tool>", {"special": False})])
    return t


def llama2():
    t = sentencepiece()
    t["normalizer"] = component(normalizers.Sequence([
        normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]))
    return t


def mistral():
    t = sentencepiece()
    t["pre_tokenizer"] = component(pre_tokenizers.Metaspace(prepend_scheme="first", split=False))
    t["model"]["merges"] = [" ".join(m) for m in t["model"]["merges"]]
    return t


def metaspace():
    """Words split, no byte fallback, unknown characters not fused, EOS behind the text."""
    t = sentencepiece()
    t["pre_tokenizer"] = component(pre_tokenizers.Metaspace(prepend_scheme="always", split=True))
    t["decoder"] = component(decoders.Metaspace())
    t["model"].update(fuse_unk=False, byte_fallback=False)
    t["post_processor"] = component(processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)]))
    return t


def mixed():
    """Normalizers, digits, behaviours and all flags of added tokens in one."""
    pre = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"[一-龥ぁ-ヿ]+"), "merged_with_next"),
        pre_tokenizers.Split(Regex(GPT4O), "removed", invert=True),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.Split("_", "merged_with_previous"),
        pre_tokenizers.Split(Regex(r"[.,;]"), "contiguous"),
        pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)])
    t = byte_level(pre)
    t["normalizer"] = component(normalizers.Sequence([
        normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(Regex(r"\s{3,}"), "  "),
        normalizers.Strip(left=False, right=True)]))
    t["decoder"] = component(decoders.ByteLevel())
    flags = [("<l>", dict(lstrip=True)), ("<r>", dict(rstrip=True, special=False)),
             ("<lr>", dict(lstrip=True, rstrip=True)), ("<|", dict(special=False)),
             ("word", dict(single_word=True, special=False)),
             ("<Norm>", dict(normalized=True, special=False)),
             ("éa", dict(normalized=True, special=True)), ("<|im_start|>", {})]
    with_added(t, flags)
    return t


def decode_cases(t, encoded):
    r = random.Random(3)
    size = t.get_vocab_size()
    cases = []
    for _ in range(120):
        cases.append([r.randrange(size) for _ in range(r.randrange(1, 12))])
    for _ in range(180):
        ids = r.choice(encoded)
        at = r.randrange(len(ids) + 1)
        cases.append(ids[at:at + r.randrange(1, 12)])
    for _ in range(60):  # many byte tokens, where the vocabulary has them
        cases.append([r.randrange(3, 259) for _ in range(r.randrange(1, 8))])
    return [[ids, t.decode(ids), t.decode(ids, skip_special_tokens=False)] for ids in cases]


def dump(name, value):
    with open(os.path.join(OUT, name), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=True, separators=(",", ":"))


def main():
    os.makedirs(OUT, exist_ok=True)
    texts = strings()
    dump("strings.json", texts)
    for make in [gpt2, llama3, qwen2, llama2, mistral, metaspace, mixed]:
        name = make.__name__
        definition = make()
        dump(name + ".tokenizer.json", definition)
        t = Tokenizer.from_str(json.dumps(definition))
        encoded = [t.encode(s).ids for s in texts]
        with open(os.path.join(OUT, name + ".ids"), "w") as f:
            f.writelines(" ".join(map(str, ids)) + "\n" for ids in encoded)
        dump(name + ".decoded.json", decode_cases(t, encoded))
        print(name, t.get_vocab_size(), sum(map(len, encoded)))


if __name__ == "__main__":
    main()
