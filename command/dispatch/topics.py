"""The MQTT topics, each with its declared right, and who may do what on them: the one table behind every broker.

`{person}` is the person's id, which is also the name of the MQTT account. `docs/ref/mqtt.md` tells the bodies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ingest.errors import GridwatchError

Action = Literal["publish", "subscribe", "receive"]

SERVICE = "gridwatch-service"
ROOT = "gridwatch/#"


@dataclass(frozen=True)
class TopicRight:
    """A topic, the name of the right, and what the person named in it may do there; the service may do all."""

    topic: str
    right: str
    person_may: Literal["publish", "subscribe"]


TOPICS = (
    TopicRight("gridwatch/tasks/{person}", "tasks.receive", "subscribe"),
    TopicRight("gridwatch/answers/{person}", "tasks.answer", "publish"),
    TopicRight("gridwatch/presence/{person}", "presence.tell", "publish"),
)


def check_person_id(person_id: str) -> str:
    """`person_id` when it can stand in a topic, a user name and a password file.

    Raises:
        GridwatchError: `dispatch.person_id`, since a wildcard or separator would open other people's topics.
    """
    bad = not person_id or len(person_id) > 64 or person_id == SERVICE or not person_id.isprintable()
    if bad or set(person_id) & set('/+#:$" \\%{}'):
        raise GridwatchError("dispatch.person_id", person=person_id)
    return person_id


def tasks_topic(person_id: str) -> str:
    """Where a person's device hears of tasks and of what became of its answers."""
    return f"gridwatch/tasks/{person_id}"


def answers_topic(person_id: str) -> str:
    """Where a person's device answers."""
    return f"gridwatch/answers/{person_id}"


def presence_topic(person_id: str) -> str:
    """Where a person's device says "online" and its last will "offline"; retained."""
    return f"gridwatch/presence/{person_id}"


def person_of(topic: str) -> str:
    """The person named in a topic of `TOPICS`."""
    return topic.rpartition("/")[2]


def may(user: str, action: Action, topic: str) -> bool:
    """Whether the account `user` may do `action` on `topic` (a filter when subscribing)."""
    if user == SERVICE:
        return topic.startswith("gridwatch/")
    verb = "subscribe" if action == "receive" else action
    return any(right.person_may == verb and topic == right.topic.format(person=user) for right in TOPICS)


def may_use_client_id(user: str, client_id: str) -> bool:
    """A client id belongs to an account: its name, or its name, a colon and a device; so nobody evicts another."""
    return client_id == user or client_id.startswith(f"{user}:")


def mosquitto_acl() -> str:
    """The same table as an ACL file for Mosquitto (`%u` is the user name)."""
    lines = [f"user {SERVICE}", f"topic readwrite {ROOT}", ""]
    for right in TOPICS:
        verb = "write" if right.person_may == "publish" else "read"
        lines.append(f"pattern {verb} {right.topic.format(person='%u')}")
    return "\n".join(lines) + "\n"
