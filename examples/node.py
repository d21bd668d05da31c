#!/usr/bin/env python3
"""A small OR-Set node in Python, to be run by the bench. From this project's folder:

    orset test --bin examples/node.py --time-limit 10 --nemesis kill,partition -- {data}/{node}

Its one argument is the directory that it keeps its store in. It shows all that a node for `orset test` has to do:

- It reads a JSON message a line on stdin, and writes one a line on stdout. Nothing else goes there.
- It answers `init`, `or_set_add`, `or_set_remove` and `or_set_read`.
- It bears messages of peers that come before its own `init`.
- It answers only what is on the disk: it may be killed at any instant, and is started again with the same arguments.
- It sends its operations to its peers until they have said that they have them, since messages may be lost.

Unlike the real `orset` it keeps the whole set and each removed tag in memory, for ever, and syncs each operation by itself.
"""

import json
import os
import select
import sys
import time
import uuid

GOSSIP_SECONDS = 0.1
MAX_OPERATIONS = 500  # in one message


class Node:
    def __init__(self, directory):
        os.makedirs(directory, exist_ok=True)
        self.id, self.peers = None, []
        self.run = str(uuid.uuid4())  # of this process: tells peers that we may have lost what we had
        self.runs = {}  # peer -> its run, as far as we know
        self.cursors = {}  # peer -> how much of our log it has
        self.operations = []  # in the order of the log: ["add", tag, element] or ["remove", tag]
        self.elements, self.removed = {}, set()
        self.log = open(os.path.join(directory, "log"), "a+b")
        self.recover()
        descriptor = os.open(directory, os.O_RDONLY)
        os.fsync(descriptor)  # the name of the log
        os.close(descriptor)

    def recover(self):
        self.log.seek(0)
        *lines, half = self.log.read().split(b"\n")
        # The last line may have been cut off by a kill: nobody was told of it.
        self.log.truncate(self.log.tell() - len(half))
        for line in lines:
            self.apply(json.loads(line))

    def apply(self, operation):
        self.operations.append(operation)
        if operation[0] == "add":
            self.elements[operation[1]] = operation[2]
        else:
            self.removed.add(operation[1])

    def write(self, operations):
        """Makes operations durable. Only then may anybody hear of them."""
        self.log.write(b"".join(json.dumps(operation).encode() + b"\n" for operation in operations))
        self.log.flush()
        os.fsync(self.log.fileno())

    def take_in(self, operations):
        """New operations, ours or a peer's."""
        for operation in operations:
            self.apply(operation)
        self.write(operations)

    def is_known(self, operation):
        return operation[1] in (self.elements if operation[0] == "add" else self.removed)

    def alive(self):
        return {tag: element for tag, element in self.elements.items() if tag not in self.removed}

    def handle(self, message):
        source, body = message["src"], message["body"]
        if self.id is None and body["type"] != "init":
            return  # a peer that was told who it is before we were; it will say so again
        reply = getattr(self, "on_" + body["type"], self.unknown)(source, body)
        if reply is not None:
            if "msg_id" in body:
                reply["in_reply_to"] = body["msg_id"]
            self.send(source, reply)

    def send(self, dest, body):
        sys.stdout.write(json.dumps({"src": self.id, "dest": dest, "body": body}) + "\n")

    def unknown(self, _source, body):
        if "in_reply_to" not in body:
            return {"type": "error", "code": 10, "text": "not supported: " + body["type"]}

    def on_init(self, _source, body):
        self.id = body["node_id"]
        self.peers = [node for node in body["node_ids"] if node != self.id]
        return {"type": "init_ok"}

    def on_or_set_add(self, _source, body):
        tag = str(uuid.uuid4())
        self.take_in([["add", tag, body["element"]]])
        return {"type": "or_set_add_ok", "tag": tag}

    def on_or_set_remove(self, _source, body):
        tags = [tag for tag, element in self.alive().items() if element == body["element"]]
        self.take_in([["remove", tag] for tag in tags])
        return {"type": "or_set_remove_ok", "tags_removed": tags}

    def on_or_set_read(self, _source, _body):
        different = {json.dumps(element): element for element in self.alive().values()}
        return {"type": "or_set_read_ok", "elements": list(different.values())}

    def on_gossip(self, source, body):
        if self.runs.get(source) != body["run"]:
            self.runs[source], self.cursors[source] = body["run"], 0
        self.take_in([operation for operation in body["operations"] if not self.is_known(operation)])
        return {"type": "gossip_ok", "run": body["run"], "to": self.run, "has": body["start"] + len(body["operations"])}

    def on_gossip_ok(self, source, body):
        # An answer to a process before this one says nothing about our log.
        if body["run"] == self.run and body["to"] == self.runs.get(source):
            self.cursors[source] = max(self.cursors.get(source, 0), body["has"])

    def gossip(self):
        for peer in self.peers:
            start = self.cursors.get(peer, 0)
            operations = self.operations[start : start + MAX_OPERATIONS]
            self.send(peer, {"type": "gossip", "run": self.run, "start": start, "operations": operations})


def main():
    node = Node(sys.argv[1])
    unread, next_gossip = b"", time.monotonic()
    while True:
        patience = max(0.0, next_gossip - time.monotonic())
        if select.select([0], [], [], patience)[0]:
            chunk = os.read(0, 1 << 16)
            if not chunk:
                return
            *lines, unread = (unread + chunk).split(b"\n")
            for line in lines:
                node.handle(json.loads(line))
        if time.monotonic() >= next_gossip:
            next_gossip = time.monotonic() + GOSSIP_SECONDS
            node.gossip()
        sys.stdout.flush()


if __name__ == "__main__":
    main()
