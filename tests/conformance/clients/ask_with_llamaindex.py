"""Run in .venv-clients as `python FILE URL KEY CHAT_MODEL EMBEDDING_MODEL`: one JSON object of what it was given."""

import asyncio
import json
import sys

import openai
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

url, key, chat_model, embedding_model = sys.argv[1:]
QUESTION = [ChatMessage(role="user", content="What is the capital of France?")]


def chat(model: str) -> OpenAILike:
    return OpenAILike(
        api_base=url, api_key=key, model=model, temperature=0, max_tokens=20, max_retries=0, is_chat_model=True,
        context_window=2048,
    )  # fmt: skip


def refusal() -> str:
    try:
        chat("nope").chat(QUESTION)
    except openai.NotFoundError as error:
        return str(error.code)
    return "none"


llm = chat(chat_model)
vectors = OpenAILikeEmbedding(api_base=url, api_key=key, model_name=embedding_model, max_retries=0)
told = {
    "answer": llm.chat(QUESTION).message.content,
    "stream": "".join(part.delta for part in llm.stream_chat(QUESTION)),
    "async": asyncio.run(llm.achat(QUESTION)).message.content,
    "vectors": [len(vector) for vector in vectors.get_text_embedding_batch(["a cat", "a dog"])],
    "refusal": refusal(),
}
print(json.dumps(told))
