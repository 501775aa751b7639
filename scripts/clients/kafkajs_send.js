// Sends `key TAB value` lines with kafkajs and its default partitioner: kafkajs_send.js BROKERS TOPIC.
const { createInterface } = require("node:readline");
const { Kafka, logLevel } = require("kafkajs");

const BATCH = 1000;

async function main([brokers, topic]) {
  const kafka = new Kafka({ brokers: brokers.split(","), logLevel: logLevel.ERROR });
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  let messages = [];
  const send = async () => {
    if (messages.length > 0) await producer.send({ topic, messages });
    messages = [];
  };
  for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    const tab = line.indexOf("\t");
    messages.push({ key: line.slice(0, tab), value: line.slice(tab + 1) });
    if (messages.length === BATCH) await send();
  }
  await send();
  await producer.disconnect();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
