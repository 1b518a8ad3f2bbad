"""EnCodec for songkit."""
