from schemathesis import Check

content_type_conformance: Check
status_code_conformance: Check
