"""Renders conversations by the chat template inside the GGUF file, as transformers does.

    python make_chat.py SmolLM2-135M-Instruct.Q4_1.gguf

Needs transformers 4.57.6, jinja2 3.1.6 and gguf 0.19.
"""

import json
import sys
from pathlib import Path

from gguf import GGUFReader
from transformers.utils.chat_template_utils import render_jinja_template

fields = GGUFReader(sys.argv[1]).fields
template = fields["tokenizer.chat_template"].contents()
words = fields["tokenizer.ggml.tokens"]
token = lambda name: words.contents(int(fields[f"tokenizer.ggml.{name}_token_id"].contents()))
tokens = {f"{short}_token": token(name) for short, name in
          [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")]}
turn = lambda role, content: {"role": role, "content": content}
talks = [
    [turn("user", "Why is the sky blue?")],
    [turn("system", "Be brief."), turn("user", "Why is the sky blue?")],
    [turn("user", "  two\n\nlines "), turn("assistant", "One."), turn("user", "caf\u00e9 <b>&</b> 'x'")],
    [turn("system", ""), turn("user", "<|im_start|>x")],
]
out = []
for messages in talks:
    text = render_jinja_template(conversations=[messages], chat_template=template,
                                 add_generation_prompt=True, **tokens)[0][0]
    out.append({"messages": messages, "text": text})
Path(__file__).with_name("chat.json").write_text(json.dumps(out, indent=1) + "\n")
