"""Chat templates: from messages to text, in Hugging Face's format, in a sandbox.

    template = ChatTemplate(SPECIAL_TOKENS, bos="<bos>", eos="<eos>")
    template.render(messages, add_generation_prompt=True)    # what the model continues
    text, spans = template.spans(messages, specials)         # the whole text, and (start, end) of what is trained

A template is Jinja. It gets `messages` (dicts with `role` and `content`), `add_generation_prompt`, `bos_token`,
`eos_token` and `raise_exception(text)`, and the tags `{% break %}` and `{% continue %}`. Its trained part is what lies
between `{% generation %}` and `{% endgeneration %}`. A template without these tags is rendered once per prefix of the
conversation: the text of an assistant turn is what it adds to the text that ends in the generation prompt.

A template may come from somebody else, with a run. It runs in Jinja's immutable sandbox: it cannot reach attributes of
Python objects, change a value, or import. It is stopped after SECONDS of computing, at MEMORY more bytes, and after
MOST_CHARACTERS of text.

Source of the conventions: the page "Chat templates" of the documentation of transformers. No torch here.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from dataset.corpus.conversations import Message
from src.flags.fields import UserError

SECONDS = 5.0  # of computing time for one rendering; an ordinary one takes a millisecond
MEMORY = 1 << 28  # bytes that one rendering may need besides those of the program
MOST_CHARACTERS = 1 << 22  # of one rendering
# Marks around what is trained. Random, because a model may write any text, and so may a template.
OPENED, CLOSED = (f"\0{secrets.token_hex(8)}{end}" for end in "<>")

# The template of a tokenizer that has ROLE_TOKENS, and the one that spells the roles.
WITH_TOKENS = """\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
<|assistant|>{% generation %}{{ message.content }}<|end|>{% endgeneration %}
{%- else -%}
<|{{ message.role }}|>{{ message.content }}<|end|>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}
"""
SPELLED = """\
{%- for message in messages -%}
{%- if message.role == 'assistant' -%}
{{ 'assistant: ' }}{% generation %}{{ message.content + eos_token }}{% endgeneration %}
{%- else -%}
{{ message.role + ': ' + message.content + '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'assistant: ' }}{%- endif -%}
"""
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")


class TooMuch(Exception):
    """A template took more time than it may."""


class ChatTemplate:
    """A compiled template.  name: what errors call it.  bos, eos: the written forms of these tokens, or "".

    Raises UserError for a text that is no template.
    """

    def __init__(self, text: str, bos: str = "", eos: str = "", name: str = "chat template"):
        self.text, self.bos, self.eos, self.name = text, bos, eos, name
        self.marks = re.search(r"\{%[-+]?\s*generation\b", text) is not None
        with self._stopped_when_wrong():
            self._compiled = _environment().from_string(text)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The text of a conversation.  add_generation_prompt: end it where an assistant's answer begins."""
        return self._render(messages, add_generation_prompt).replace(OPENED, "").replace(CLOSED, "")

    def spans(self, messages: Sequence[Message], specials: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
        """The text of a conversation, and (start, end) of each assistant turn in it, its end-of-turn token included.

        specials: the written forms of special tokens. Without `{% generation %}` a turn ends after the last one of them
        that the template writes after the answer. UserError where the template does not let the turns be told apart.
        """
        found = self._marked(messages) if self.marks else self._by_prefixes(messages, specials)
        answers = sum(m.role == "assistant" for m in messages)
        if len(found[1]) != answers or any(start == end for start, end in found[1]):
            raise self._error(
                f"marks {len(found[1])} trained parts for {answers} assistant turns, allowed: one each, which is not "
                "empty; put {% generation %} and {% endgeneration %} around what an assistant writes"
            )
        return found

    def _marked(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """What `spans` returns, from the tags of the template."""
        text, spans = "", []
        for i, part in enumerate(self._render(messages, False).split(OPENED)):
            inside, closed, outside = part.partition(CLOSED)
            if i and not closed:
                raise self._error("opens {% generation %} inside of another one; close the first one before")
            if i:
                spans.append((len(text), len(text) + len(inside)))
            text += inside + outside
        return text, spans

    def _by_prefixes(self, messages: Sequence[Message], specials: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
        """What `spans` returns, from renderings of the conversation up to each assistant turn."""
        whole, spans = self.render(messages), []
        for at, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before, after = self.render(messages[:at], True), self.render(messages[: at + 1])
            if not after.startswith(before) or not whole.startswith(after):
                raise self._error(
                    f"changes what it wrote before when message {at + 1} is added, so what is trained cannot be told; "
                    "put {% generation %} and {% endgeneration %} around what an assistant writes"
                )
            written = after[len(before) :]
            ends = [written.rfind(s) + len(s) for s in specials if s in written]
            spans.append((len(before), len(before) + max(ends, default=len(written))))
        return whole, spans

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        """The text with OPENED and CLOSED around what is trained."""
        values = {
            "messages": [m.as_dict() for m in messages],
            "add_generation_prompt": add_generation_prompt,
            "bos_token": self.bos,
            "eos_token": self.eos,
            "tools": None,
            "documents": None,
        }
        parts, size = [], 0
        with self._stopped_when_wrong():
            for part in self._compiled.generate(**values):
                parts.append(part)
                size += len(part)
                if size > MOST_CHARACTERS:
                    break
        if size > MOST_CHARACTERS:
            raise self._error(f"writes more than {MOST_CHARACTERS:,} characters for one conversation; correct it")
        return "".join(parts)

    @contextlib.contextmanager
    def _stopped_when_wrong(self) -> Iterator[None]:
        """Limit time and memory, and turn whatever a template raises into a UserError of one line."""
        import jinja2
        from jinja2.sandbox import SecurityError

        try:
            with limited_time(SECONDS), limited_memory(MEMORY):
                yield
        except TooMuch:
            raise self._error(f"computes for more than {SECONDS:g} s for one conversation; does it loop?") from None
        except MemoryError:
            raise self._error(f"needs more than {MEMORY >> 20:,} MiB for one conversation; correct it") from None
        except SecurityError as error:
            raise self._error(f"does what a template must not ({_first_line(error)})") from None
        except jinja2.TemplateSyntaxError as error:
            raise self._error(f"line {error.lineno}: {_first_line(error)}") from None
        except Exception as error:  # a template can raise anything that Python code can
            if "no loader" in str(error):
                raise self._error("imports or includes another template, which is not allowed; write it out") from None
            raise self._error(f"{_first_line(error) or type(error).__name__}") from None

    def _error(self, what: str) -> UserError:
        return UserError(f"{self.name}: {what}")


def read_template(path: Path) -> str:
    """The text of a template file. UserError where it cannot be read."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        raise UserError(f"--chat_template: got '{path}', which cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--chat_template: '{path}' is not UTF-8 (byte {error.start}); convert the file") from None
    if "\0" in text or not text.strip():
        raise UserError(
            f"--chat_template: '{path}' is {'no text' if text.strip() else 'empty'}, allowed: a Jinja template"
        )
    return text


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")


def _environment():
    """Jinja's immutable sandbox with what templates of Hugging Face's format expect."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.nodes import CallBlock
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

    class Sandbox(ImmutableSandboxedEnvironment):
        """Refuses at once what Jinja's sandbox lets pass until it is used, and powers, which nothing can interrupt."""

        intercepted_binops = frozenset({"**"})

        def unsafe_undefined(self, value, attribute):
            raise SecurityError(f"it reads the attribute {attribute!r} of a {type(value).__name__}")

        def call_binop(self, context, operator, left, right):
            raise SecurityError("it computes a power")

    class Generation(Extension):
        """`{% generation %} ... {% endgeneration %}`: marks what is trained."""

        tags = {"generation"}  # noqa: RUF012  (jinja2 reads this name from the class)

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

        def _mark(self, caller) -> str:
            return OPENED + caller() + CLOSED

    def raise_exception(message):
        raise jinja2.TemplateError(str(message))

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.globals["raise_exception"] = raise_exception
    environment.filters["tojson"] = tojson
    return environment


@contextlib.contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Raise TooMuch after so many seconds of computing. Only the main thread can, and no thread of Windows."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, frame):
        raise TooMuch

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Raise MemoryError where the process would take `more` bytes on top of what it has. Only Linux tells that."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError):
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = pages * resource.getpagesize() + more
    allowed = [limit for limit in (most, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
