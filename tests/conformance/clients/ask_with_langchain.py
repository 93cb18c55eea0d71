"""Run in .venv-clients as `python FILE URL KEY CHAT_MODEL EMBEDDING_MODEL`: one JSON object of what it was given."""

import asyncio
import json
import sys

import openai
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

url, key, chat_model, embedding_model = sys.argv[1:]
QUESTION = "What is the capital of France?"


def chat(**options: object) -> ChatOpenAI:
    return ChatOpenAI(base_url=url, api_key=key, model=chat_model, temperature=0, max_retries=0, timeout=60, **options)


def get_weather(city: str) -> str:
    """Tells the weather of a city."""
    return city


def refusal() -> str:
    try:
        ChatOpenAI(base_url=url, api_key=key, model="nope", max_retries=0).invoke(QUESTION)
    except openai.NotFoundError as error:
        return str(error.code)
    return "none"


async def stream() -> str:
    return "".join([chunk.text async for chunk in chat().astream(QUESTION)])


answer = chat().invoke(QUESTION)
tool = chat(max_tokens=60).bind_tools([get_weather], tool_choice="get_weather", strict=True).invoke(QUESTION)
# Its own tokenizer is OpenAI's; other models are sent texts.
vectors = OpenAIEmbeddings(base_url=url, api_key=key, model=embedding_model, check_embedding_ctx_length=False)
told = {
    "answer": answer.text,
    "output_tokens": answer.usage_metadata["output_tokens"],
    "stream": asyncio.run(stream()),
    "responses": chat(use_responses_api=True).invoke(QUESTION).text,
    "tool": tool.tool_calls[0]["name"],
    "tool_fields": sorted(tool.tool_calls[0]["args"]),
    "vectors": [len(vector) for vector in vectors.embed_documents(["a cat", "a dog"])],
    "vector": len(vectors.embed_query("a cat")),
    "refusal": refusal(),
}
print(json.dumps(told))
