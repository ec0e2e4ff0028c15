"""Hides what looks like a secret in text that leaves task code: messages, tracebacks, lines.

A net, not a wall: it knows the forms in which secrets usually end up in errors. Where it is in
doubt it hides. Every pattern takes linear time, because task code decides what the text is.
"""

from __future__ import annotations

import re

HIDDEN = "***"

_NAME = (
    r"(?:token(?!i[sz]|s\W{1,4}\d)|secret|passw(?:or)?d|passphrase|signature|credential"
    r"|(?:api|access|account|shared|private|encryption|signing|master)[_-]?key"
    r"|(?<![a-z0-9])(?:pass|auth|sig)(?![\w-])|pwd(?![\w-]))"
)
# After the name: `=`, `: ` or `": `, also in JSON within JSON; or the next of a list of words.
_IS = r"(?:\\{0,3}[\"']?\s{0,4}[=:]\s{0,4}|[\"']\s{0,4},\s{0,4}(?=b?[\"']))"
_VALUE = (
    r"(?:[a-z]{0,2}\"(?:\\.|[^\"\\])*\"|[a-z]{0,2}'(?:\\.|[^'\\])*'"
    r"|\\{1,3}[\"'][^\"'\s]*[\"']|[^\s&,;)}\]]+)"
)
_KEY_BEGINS = re.compile("-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY")
_KEY_BODY = re.compile(r"[\s|]*(?:[A-Za-z0-9+/=]*|(?:Proc-Type|DEK-Info): .*)\s*")
_FLAGS = re.IGNORECASE | re.DOTALL
_PATTERNS = (
    # Up to its end; of one that was cut, all that may be part of it.
    (
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?:.{0,8192}?-----END [A-Z0-9 ]{0,60}-----"
            r"|[\w\s+/=:,|\\-]*)",
            re.DOTALL,
        ),
        HIDDEN,
    ),
    # user:password@ and token@, also where the password holds a slash; host:port/... is neither.
    (
        re.compile(
            r"(?<=://)(?:[^\s/@:'\"<>?#]{0,512}:(?!\d{1,5}(?:[/?#]|\Z))[^\s@'\"<>]{0,512}@"
            r"(?:[^\s/@'\"<>?#]{1,512}@)?|[^\s/@'\"<>?#]{1,512}@)"
        ),
        f"{HIDDEN}@",
    ),
    (
        re.compile(
            r"((?:authorization|cookie)(?:\\{0,3}[\"']?\s{0,4}[=:]\s{0,4}|[\"']\s{0,4},\s{0,4})"
            r"(?:b(?=[\"']))?\\{0,3}[\"']?)[^\r\n\"'\\]+",
            _FLAGS,
        ),
        rf"\1{HIDDEN}",
    ),
    # Not the words of a sentence: those have small letters only.
    (
        re.compile(
            r"\b(bearer|basic)\s{1,4}(?-i:(?=[a-z]{0,256}[A-Z0-9+/=]))[\w.~+/=-]{8,}", _FLAGS
        ),
        rf"\1 {HIDDEN}",
    ),
    (re.compile(rf"({_NAME}[\w-]{{0,64}}{_IS}){_VALUE}", _FLAGS), rf"\1{HIDDEN}"),
    (
        re.compile(rf"((?<![\w-])--[\w-]{{0,64}}{_NAME}[\w-]{{0,64}}\s{{1,4}}){_VALUE}", _FLAGS),
        rf"\1{HIDDEN}",
    ),
    # Known by their looks alone: AWS, JWT, GitHub, GitLab, Slack, Google, Stripe, PyPI and npm,
    # Hugging Face, and the sk-... of those who offer models.
    (
        re.compile(
            r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{12,}|eyJ[\w-]{10,}(?:\.[\w-]*){0,2}"
            r"|gh[a-z]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[a-z]-[\w-]{8,}"
            r"|xapp-[\w-]{8,}|AIza[\w-]{30,}|ya29\.[\w-]{16,}|[rs]k_(?:live|test)_\w{10,}"
            r"|pypi-[\w-]{16,}|npm_\w{30,}|hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,})"
        ),
        HIDDEN,
    ),
    (re.compile(r"(?<=hooks\.slack\.com/services/)[\w/]+"), HIDDEN),
)
_NAMES = re.compile(rf"{_NAME}|authorization|cookie", re.IGNORECASE)


def scrub(text: str) -> str:
    """The text with each secret in it hidden."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def scrub_fact(name: str, value: str) -> str:
    """The value of a fact; hidden whole where the name says that it is a secret."""
    return HIDDEN if _NAMES.search(name) else scrub(value)


class LineScrubber:
    """Scrubs what comes line by line: a private key is printed in many of them."""

    __slots__ = ("_inside",)

    def __init__(self) -> None:
        self._inside = False

    def scrub(self, line: str) -> str:
        """The line with each secret hidden; one inside of a private key is hidden whole."""
        return HIDDEN if self.notice(line) else scrub(line)

    def notice(self, line: str) -> bool:
        """Follows where private keys begin and end; True where the line is inside of one."""
        if self._inside and _KEY_BODY.fullmatch(line):
            return True
        self._inside = line.rfind("-----BEGIN ") > line.rfind("-----END ") and bool(
            _KEY_BEGINS.search(line)
        )
        return False
