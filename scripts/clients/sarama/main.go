// Sends `key TAB value` lines with Sarama and its default partitioner: main BROKERS TOPIC.
package main

import (
	"bufio"
	"bytes"
	"log"
	"os"
	"strings"

	"github.com/IBM/sarama"
)

const (
	batch     = 1000
	lineBytes = 16 << 20
)

func main() {
	config := sarama.NewConfig()
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Return.Successes = true
	// One request at a time keeps the order of the events of a key.
	config.Net.MaxOpenRequests = 1
	config.Producer.Idempotent = true
	producer, err := sarama.NewSyncProducer(strings.Split(os.Args[1], ","), config)
	if err != nil {
		log.Fatal(err)
	}
	var messages []*sarama.ProducerMessage
	send := func() {
		if err := producer.SendMessages(messages); err != nil {
			log.Fatal(err)
		}
		messages = nil
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, lineBytes)
	for lines.Scan() {
		key, value, _ := bytes.Cut(lines.Bytes(), []byte("\t"))
		messages = append(messages, &sarama.ProducerMessage{
			Topic: os.Args[2],
			Key:   sarama.ByteEncoder(bytes.Clone(key)),
			Value: sarama.ByteEncoder(bytes.Clone(value)),
		})
		if len(messages) == batch {
			send()
		}
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
	send()
	if err := producer.Close(); err != nil {
		log.Fatal(err)
	}
}
