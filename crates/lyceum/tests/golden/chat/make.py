"""Renders chat templates as transformers does and writes them down: `python make.py`.

Needs transformers 4.57.6 and jinja2 3.1.6. The templates are written for these tests.
"""

import json
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

CONVERSATIONS = {
    "brief": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "w5 'q' \"x\" <b>&</b> caf\u00e9 \u4f60 \U0001f600 \\ / \x7f\x01\n\tend"},
    ],
    "turns": [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": " two "},
        {"role": "user", "content": "three"},
    ],
}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

LINES = (
    "{% for m in messages %}\n<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}\n"
    "{% if add_generation_prompt %}\nassistant\n{% endif %}\n"
)
VALUE = "{'b': [1, 2.0, -0.5, 1e16, 1e-5, 123456789.125], 'a': {'x': none, 'y': [], 'z': {}}, 'c': [true, 'é']}"
TEMPLATES = {
    # Line ends
    "lf": LINES,
    "crlf": LINES.replace("\n", "\r\n"),
    "cr": LINES.replace("\n", "\r"),
    "crlf_in_text": "a\r\nb{{ 'c\r\nd' }}{# x\r\n #}\r\n\r\n",
    "escapes_stay": "{{ 'a\\r\\nb' }}",
    "last_newline": "{{ messages[0].content }}\n",
    "two_newlines": "{{ messages[0].content }}\n\n",
    # tojson
    "message": "{% for m in messages %}{{ m | tojson }}{% endfor %}",
    "text": "{{ messages[-1].content | tojson }}",
    "ascii": "{{ messages[-1] | tojson(ensure_ascii=True) }}",
    "ascii_by_place": "{{ messages[-1] | tojson(true) }}",
    "not_ascii": "{{ messages[-1] | tojson(ensure_ascii=False) }}",
    "indent": "{{ messages | tojson(indent=4) }}",
    "indent_two": "{{ " + VALUE + " | tojson(false, 2) }}",
    "indent_none": "{{ " + VALUE + " | tojson(indent=none) }}",
    "indent_zero": "{{ " + VALUE + " | tojson(indent=0) }}",
    "indent_tab": "{{ " + VALUE + " | tojson(indent='\\t') }}",
    "indent_true": "{{ " + VALUE + " | tojson(indent=true) }}",
    "separators": "{{ " + VALUE + " | tojson(separators=(',', ':')) }}",
    "separators_list": "{{ " + VALUE + " | tojson(indent=1, separators=[' ;', ' = ']) }}",
    "sorted": "{{ " + VALUE + " | tojson(sort_keys=true) }}",
    "sorted_indent": "{{ " + VALUE + " | tojson(indent=2, sort_keys=True, ensure_ascii=True) }}",
    "numbers": "{{ [0, -0.0, 1.0, 0.1, 1e15, 1e16, 1.5e300, 0.0001, 0.00001, 12345678901234567890, 7 / 2, 7 // 2] | tojson }}",
    "keys": "{{ {'a': 1, 2: 'b'} | tojson }}",
    "truth": "{{ true | tojson }}{{ none | tojson }}{{ 'x' | tojson }}{{ add_generation_prompt | tojson }}",
    "slice": "{{ messages[1:] | tojson }}",
    "tools": "{% if tools %}{{ tools | tojson }}{% endif %}{{ tools is defined }}{{ tools is none }}{{ documents is none }}",
    # generation
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}<s> {{ m.content }} </s>{% endgeneration %}{% else %}<s> {{ m.role }}</s>{% endif %}{% endfor %}",
    "generation_dashes": "{%- for m in messages -%} x {%- if m.role == 'assistant' -%} y {%- generation -%} <s> {{ m.content }} </s> {%- endgeneration -%} z {%- endif -%}{%- endfor -%}",
    "generation_lines": "{% for m in messages %}\n  {% generation %}\n  {{ m.content }}\n  {% endgeneration %}\n{% endfor %}\nend",
    "generation_plus": "{% for m in messages %}\n  {%+ generation %}\n{{ m.content }}\n  {%+ endgeneration +%}\n{% endfor %}",
    "generation_loop": "{% for m in messages %}{% generation %}{{ loop.index }}{% if loop.last %}!{% endif %}{{ m.role }}{% endgeneration %}{% endfor %}",
    "generation_scope": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "generation_namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% generation %}{% set ns.n = ns.n + 1 %}{% endgeneration %}{% endfor %}{{ ns.n }}",
    "generation_words": "{# {% generation %} #}{{ '{% generation %}' }}{% raw %}{% generation %}{% endraw %}{% set generation = 3 %}{{ generation }}",
    # What templates use besides
    "tokens": "{{ bos_token }}{{ eos_token + pad_token }}{{ unk_token is defined }}",
    "values": "{{ add_generation_prompt }} {{ none }} {{ [1, 'a', true] }} {{ {'a': none} }} {{ 1.0 }} {{ 7 / 2 }} {{ 7 // 2 }} {{ messages | length }}",
    "undefined": "[{{ nothing }}]{% if nothing is not defined %}u{% endif %}{{ messages[0].get('x') }}{{ messages[0].x is defined }}",
    "strings": "{{ 'a,b,c'.split(',')[1] }}{{ '  x '.strip() }}|{{ 'Hello'.replace('l', 'L', 1) }}|{{ 'abc'[::-1] }}|{{ 'abc'[-2:] }}|{{ 'Title case'.title() }}|{{ 'x'.join(['1', '2']) }}|{{ '\\n a\\n'.lstrip('\\n') }}|{{ 'a b'.split() | length }}|{{ '%s-%s' | format('a', 1) }}",
    "reverse": "{% for m in messages[::-1] %}{{ loop.revindex0 }}{{ m.role }}{% endfor %}{% for m in messages | reverse %}{{ m.content | trim }}{% endfor %}",
    "macro": "{% macro turn(m, end='.') -%}<{{ m.role }}>{{ m.content | trim }}{{ end }}{%- endmacro %}{% for m in messages %}{{ turn(m) }}{{ turn(m, end='!') }}{% endfor %}",
    "items": "{% for m in messages %}{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}{% endfor %}{% for k, v in messages[0] | dictsort %}{{ k }}{% endfor %}",
    "controls": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.role }}{% if loop.index > 1 %}{% break %}{% endif %}{% endfor %}",
    "select": "{% set s = messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list %}{{ s | length }}{{ s[0] }}{{ (messages | rejectattr('role', 'eq', 'user') | list) | length }}{{ messages | map(attribute='role') | join(',') }}",
    "block": "{% set x %}a {{ messages[0].role }}{% endset %}{{ x }}|{{ x | length }}|{% filter upper %}b{% endfilter %}",
    "previous": "{% for m in messages %}{% if loop.previtem is defined and loop.previtem.role != m.role %}+{% endif %}{{ m.role }}{{ loop.nextitem is defined }}{% endfor %}",
    "date": "{% if strftime_now is defined and false %}x{% endif %}y",
}

out = []
for name, template in TEMPLATES.items():
    for talk, messages in CONVERSATIONS.items():
        text = render_jinja_template(
            conversations=[messages],
            chat_template=template,
            add_generation_prompt=True,
            **TOKENS,
        )[0][0]
        out.append({"name": f"{name} {talk}", "template": template, "messages": messages, "text": text})
path = Path(__file__).with_name("renderings.json")
path.write_text(json.dumps({"tokens": TOKENS, "renderings": out}, indent=1, ensure_ascii=True) + "\n")
print(len(out), path.stat().st_size)
