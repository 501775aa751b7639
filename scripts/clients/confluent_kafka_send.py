"""Sends `key TAB value` lines with confluent-kafka and its default partitioner: send.py BROKERS TOPIC."""
import sys

from confluent_kafka import Producer

failed = []


def delivered(error, _):
    if error:
        failed.append(error)


producer = Producer({"bootstrap.servers": sys.argv[1], "enable.idempotence": True})
for line in sys.stdin.buffer:
    key, value = line.rstrip(b"\n").split(b"\t", 1)
    while True:
        try:
            producer.produce(sys.argv[2], value, key, on_delivery=delivered)
            break
        except BufferError:
            producer.poll(0.1)
left = producer.flush(120)
if failed or left:
    sys.exit(f"{left} events are not acknowledged, {len(failed)} failed: {failed[:1]}")
