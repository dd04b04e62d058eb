"""What IAM decides: whether policies allow one action on one resource. Pure: no moto, no IO. Tests: test_authority.py.

As AWS describes its evaluation: an explicit Deny wins, then any Allow allows, and nothing said means no. Every element of a
statement must match. Whatever this does not know (NotAction, an operator, a condition key) is an error and not a guess.
"""

import re
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Question:
    """One action on one resource, with what conditions can look at."""

    action: str
    resource: str
    resource_tags: dict[str, str] = field(default_factory=dict)
    request_tags: dict[str, str] = field(default_factory=dict)
    create_action: str | None = None

    def values(self, key: str) -> list[str]:
        """The values of a condition key; none when it is not in the request's context. Keys ignore the case, tag keys in it do not."""
        name, _, tag = key.partition("/")
        match name.lower():
            case "aws:resourcetag" | "elasticloadbalancing:resourcetag":
                return [self.resource_tags[tag]] if tag in self.resource_tags else []
            case "aws:requesttag":
                return [self.request_tags[tag]] if tag in self.request_tags else []
            case "aws:tagkeys":
                return list(self.request_tags)
            case "elasticloadbalancing:createaction":
                return [] if self.create_action is None else [self.create_action]
        raise ValueError(f"condition key {key} is not known for {self.action}")


KNOWN_ELEMENTS = {"Sid", "Effect", "Action", "Resource", "Condition"}


def allows(policies: list[dict[str, Any]], question: Question) -> bool:
    statements = [statement for policy in policies for statement in listed(policy["Statement"])]
    effects = [statement["Effect"] for statement in statements if applies(statement, question)]
    return "Deny" not in effects and "Allow" in effects


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def applies(statement: dict[str, Any], question: Question) -> bool:
    unknown = set(statement) - KNOWN_ELEMENTS
    if unknown:
        raise ValueError(f"statement elements {sorted(unknown)} are not known")
    # Actions ignore the case, ARNs do not.
    action = any(like(pattern.lower(), question.action.lower()) for pattern in listed(statement["Action"]))
    resource = any(like(pattern, question.resource) for pattern in listed(statement["Resource"]))
    return action and resource and all(
        holds(operator, key, listed(wanted), question)
        for operator, keys in statement.get("Condition", {}).items()
        for key, wanted in keys.items()
    )


def like(pattern: str, text: str) -> bool:
    """AWS's wildcards: * is any run of characters, ? is one."""
    parts = {"*": ".*", "?": "."}
    return re.fullmatch("".join(parts.get(c, re.escape(c)) for c in pattern), text, re.DOTALL) is not None


def holds(operator: str, key: str, wanted: list[str], question: Question) -> bool:
    found = question.values(key)
    if operator == "Null":
        return all((value.lower() == "true") == (not found) for value in wanted)
    scope, _, plain = operator.rpartition(":")
    compare = {"StringEquals": str.__eq__, "StringLike": lambda text, pattern: like(pattern, text)}.get(plain)
    if compare is None:
        raise ValueError(f"condition operator {operator} is not known")
    fits = [any(compare(value, one) for one in wanted) for value in found]
    if scope == "ForAllValues":
        # True also without any value: AWS warns of it, and the policy says Null beside it.
        return all(fits)
    if scope in ("", "ForAnyValue"):
        return any(fits)
    raise ValueError(f"condition operator {operator} is not known")
