"""Tokenizers: Qwen's with the view tokens added, and a small one that is made on the spot, without a hub.

The language model of Qwen3.5 has more rows than its tokenizer has entries: 248,320 (transformers
models/qwen3_5/configuration_qwen3_5.py, ``vocab_size``) against 248,077, the last of them being control tokens. The view tokens get
the next ids and so lie in rows that exist but were never trained; no embedding has to grow. :func:`rows_needed` says how many rows a
tokenizer wants, for a model that has fewer.

The small tokenizer is a byte-level BPE trained by ``tokenizers`` on the text in this file alone, with an entry for each sentence that
comes again and again, so that a vocabulary is the same on every machine; a test pins it. A change of that text makes another tokenizer,
and random weights of another model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from huggingface_hub import hf_hub_download
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ..api import PolicyError
from .config import SpecialTokens
from .prompt import IM_END, IM_START, IMAGE_PAD, VISION_END, VISION_START, view_tokens

TOKENIZER_FILE = "tokenizer.json"

PAD = "<|endoftext|>"
VIDEO_PAD = "<|video_pad|>"

#: Qwen's control tokens that a text with images is made of, in the order of their ids (Qwen3.5's tokenizer.json).
QWEN_TOKENS = (PAD, IM_START, IM_END, VISION_START, VISION_END, "<|vision_pad|>", IMAGE_PAD, VIDEO_PAD)

#: Most entries of the small tokenizer.
SMALL_ENTRIES = 1024

#: The sentences around an instruction, as the small tokenizer learns them; kept apart from the templates and the embodiments, whose
#: changes must not make another tokenizer.
_SENTENCES = (
    "user\nThe robot is Franka Panda with single arm. The control frequency is 20 Hz.",
    "user\nThe robot is WidowX with single arm. The control frequency is 5 Hz.",
    "user\nThe robot is Google Robot with single arm, and mobile base. The control frequency is 3 Hz.",
    "user\nThe robot is Mobile ALOHA with dual arms, and mobile base. The control frequency is 50 Hz.",
    "user\nThe robot is Fourier GR-1 with dual arms, waist. The control frequency is 20 Hz.",
    "user\nThe robot is AgiBot A2-D with dual arms, waist, and mobile base. The control frequency is 30 Hz.",
    "user\nThe robot is Real Human with dual arms. The control frequency is 30 Hz.",
    "user\nThe robot is VLN-CE agent with mobile base. The navigation convention is (dx, dy, dtheta) per waypoint in the ground plane.",
    " Please predict the next 16 control actions to execute the following task:",
    " Please predict the next 8 waypoints to execute the following task:",
    " state: [0, 12, 34, 56, 78, 90, 128, 255]",
    "\n",
    "assistant\n",
)

#: Words of instructions: all of the embedded suite's, LIBERO's and SimplerEnv's, and common ones of RoboTwin, RoboCasa and VLN.
_WORDS = """
a all alphabet an and apple around arm at away back ball banana bar basket basketball bathroom bbq bed bedroom bell beside between bin
black block blue book both bottle bottom bowl box bread brown bus butter button cabinet caddy can carrot center chair cheese chocolate
clean click close cloth compartment cookie counter cover cream cube cup cyan cylinder dining door down drawer dressing each egg
eggplant end enter exit farther first fold fork forward from front frying goal grab gray green hallway hammer hand handle handover
hang head hold in inside into it jar juice ketchup kitchen knife lamp laptop left lid lift living long microwave middle milk moka
mouse move mug near next nothing object of off office on onto open orange other out pad pan past pick pink pillow place placemat plate
play pot pots pour press pudding pull purple push put rack ramekin red right room rotate salad sauce second shake shelf shoe side sink
small sofa soup spoon stack stairs stamp stand step stop stove straight switch table take tap the them then through to tomato top
towel toward toy tray turn two under until up wait walk wall white window wine wipe with wooden yellow you your zone
"""


#: Words that begin a sentence, or an answer's label.
_FIRST_WORDS = """
black blue count cyan describe find gray green is locate no orange pink point purple red right left the there what where which white
yellow yes Count Describe Do Find How Is Locate Point Seen The There What Where Which
"""

#: What comes again in every prompt and in every answer with boxes; each is one entry. A prompt has half as many tokens so, and the
#: language model and the action expert of ``small`` spend most of their time on the prompt's tokens.
_PHRASES = (
    "user\nThe robot is",
    " with single arm",
    " with dual arms",
    ", and mobile base",
    ". The control frequency is ",
    " Hz. Please predict the next ",
    " control actions to execute the following task:",
    " with mobile base. The navigation convention is (dx, dy, dtheta) per waypoint in the ground plane. Please predict the next ",
    " waypoints to execute the following task:",
    "assistant\n",
    "<think>\n\n</think>\n\n",
    " Output the bbox coordinates in JSON format.",
    '{"bbox_2d": [',
    '], "label": "',
    '"}',
)


@dataclass(frozen=True)
class TokenIds(SpecialTokens):
    """The ids that a sequence with images is built of: those that the backbone must know too, and one more.

    Attributes:
        pad: Fills up the shorter sequences of a batch.
    """

    pad: int


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a local directory or of a hub's repository, as it is: :func:`add_view_tokens` adds what it lacks."""
    try:
        # Read as it is. AutoTokenizer would look into a config.json beside it and make Qwen's class of a small tokenizer.
        local = Path(source) / TOKENIZER_FILE
        path = str(local) if local.parent.is_dir() else hf_hub_download(str(source), TOKENIZER_FILE)
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:
        first = str(error).strip().splitlines() or [type(error).__name__]
        raise PolicyError(
            f"no tokenizer can be loaded from {str(source)!r} ({first[0]}); give a directory with tokenizer.json"
        ) from None
    _check_qwen(tokenizer.get_vocab(), str(source))
    return _wrapped(tokenizer)


def add_view_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    """Add the view tokens that ``tokenizer`` lacks, in place.

    Returns:
        The added tokens and their ids; empty where it had all of them.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in view_tokens() if token not in vocabulary]
    tokenizer.backend_tokenizer.add_special_tokens(missing)
    return {token: cast("int", tokenizer.convert_tokens_to_ids(token)) for token in missing}


def rows_needed(tokenizer: PreTrainedTokenizerFast) -> int:
    """How many rows a model's embedding must have for this tokenizer: its largest id and one."""
    return max(tokenizer.get_vocab().values()) + 1


def token_ids(tokenizer: PreTrainedTokenizerFast) -> TokenIds:
    """The ids of Qwen's vision tokens; the tokenizer must have the view tokens too."""
    vocabulary = tokenizer.get_vocab()
    _check_qwen(vocabulary, tokenizer.name_or_path)
    missing = [token for token in view_tokens() if token not in vocabulary]
    if missing:
        raise PolicyError(f"the tokenizer lacks the view tokens {', '.join(missing)}; add them with add_view_tokens")
    return TokenIds(
        image_pad=vocabulary[IMAGE_PAD],
        video_pad=vocabulary[VIDEO_PAD],
        vision_start=vocabulary[VISION_START],
        vision_end=vocabulary[VISION_END],
        pad=vocabulary[PAD],
    )


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The ids of ``text``, control tokens as such, with nothing put before or after."""
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write ``tokenizer.json``, from which :func:`load_tokenizer` makes the same tokenizer again."""
    tokenizer.backend_tokenizer.save(str(directory / TOKENIZER_FILE))


def small_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most 1,024 entries with Qwen's control tokens and the view tokens; text goes through it unchanged.

    Digits are tokens of their own, as in Qwen's. Unlike Qwen's it does not normalise Unicode, so that what comes out is what went in.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SMALL_ENTRIES,
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in (*QWEN_TOKENS, *view_tokens())],
        show_progress=False,
    )
    words = [*(f" {word}" for word in _WORDS.split()), *_FIRST_WORDS.split()]
    tokenizer.train_from_iterator([*_SENTENCES, *words], trainer)
    tokenizer.add_tokens([AddedToken(phrase, special=False, normalized=False) for phrase in _PHRASES])
    return _wrapped(tokenizer)


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=IM_END, padding_side="right", clean_up_tokenization_spaces=False
    )


def _check_qwen(vocabulary: dict[str, int], source: str) -> None:
    missing = [token for token in QWEN_TOKENS if token not in vocabulary]
    if missing:
        whose = f"the tokenizer of {source!r}" if source else "the tokenizer"
        raise PolicyError(f"{whose} lacks {', '.join(missing)}; give a Qwen tokenizer with vision tokens")
