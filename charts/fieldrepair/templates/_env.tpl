{{/* A component's settings as environment variables: (dict "settings" .Values.monitor.settings). */}}
{{- define "fieldrepair.settings" -}}
{{- range $name, $value := .settings }}
- name: FIELDREPAIR_{{ upper $name }}
  value: {{ if kindIs "string" $value }}{{ quote $value }}{{ else }}{{ toJson $value | quote }}{{ end }}
{{- end }}
{{- end -}}

{{/* What every part needs to know of the case book. */}}
{{- define "fieldrepair.caseBookEnv" -}}
- name: FIELDREPAIR_CASE_BOOK
  valueFrom:
    secretKeyRef:
      name: {{ include "fieldrepair.caseBookSecret" . }}
      key: {{ .Values.caseBook.existingSecretKey }}
{{- end -}}

{{- define "fieldrepair.fieldLogEnv" -}}
- name: FIELDREPAIR_FIELD_LOG
  value: {{ default "/var/lib/fieldrepair/log/field_log" .Values.fieldLog.uri | quote }}
{{- with .Values.fieldLog.s3 }}
{{- if .region }}
- name: AWS_REGION
  value: {{ .region | quote }}
{{- end }}
{{- if .endpointUrl }}
- name: AWS_ENDPOINT_URL
  value: {{ .endpointUrl | quote }}
{{- end }}
{{- if .allowHttp }}
- name: AWS_ALLOW_HTTP
  value: "true"
{{- end }}
{{- end }}
{{- end -}}

{{- define "fieldrepair.mlflowEnv" -}}
- name: MLFLOW_TRACKING_URI
  value: {{ .Values.mlflow.trackingUri | quote }}
{{- end -}}

{{- define "fieldrepair.stateEnv" -}}
- name: FIELDREPAIR_STATE_DIR
  value: /var/lib/fieldrepair/state
{{- end -}}

{{- define "fieldrepair.modelEnv" -}}
- name: FIELDREPAIR_MODEL_NAME
  value: {{ .Values.model.name | quote }}
{{- end -}}

{{- define "fieldrepair.controlToken" -}}
- name: FIELDREPAIR_CONTROL_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "fieldrepair.tokensSecret" . }}
      key: control-token
{{- end -}}

{{/* A control port, of sidecar, mirror or console: (dict "root" $ "port" 8081). */}}
{{- define "fieldrepair.controlEnv" -}}
- name: FIELDREPAIR_CONTROL_HOST
  value: {{ .root.Values.bindAddress | quote }}
- name: FIELDREPAIR_CONTROL_PORT
  value: {{ .port | quote }}
{{ include "fieldrepair.controlToken" .root }}
- name: FIELDREPAIR_VIEWER_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "fieldrepair.tokensSecret" .root }}
      key: viewer-token
- name: FIELDREPAIR_LOG_FORMAT
  value: {{ .root.Values.logFormat }}
{{- end -}}

{{/* Sidecar and mirror leave pages and API to the console's pod: they need neither case book nor its password. */}}
{{- define "fieldrepair.noConsoleEnv" -}}
- name: FIELDREPAIR_CONSOLE
  value: "off"
{{- end -}}

{{/* What the console's pod has beyond its control port. */}}
{{- define "fieldrepair.consoleEnv" -}}
- name: FIELDREPAIR_LABELLER_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ include "fieldrepair.tokensSecret" . }}
      key: labeller-token
- name: FIELDREPAIR_MLFLOW_UI_URL
  value: {{ default .Values.mlflow.trackingUri .Values.mlflow.uiUrl | quote }}
- name: FIELDREPAIR_SIDECARS
  value: http://{{ include "fieldrepair.sidecarsService" . }}:{{ include "fieldrepair.sidecarsPort" . }}
{{- end -}}

{{/* Secrets whose keys are variables: (dict "root" $ "s3" true "mlflow" true). */}}
{{- define "fieldrepair.envFrom" -}}
{{- $names := list -}}
{{- if and .mlflow .root.Values.mlflow.existingSecret }}{{ $names = append $names .root.Values.mlflow.existingSecret }}{{ end -}}
{{- if and .s3 .root.Values.fieldLog.s3.existingSecret }}{{ $names = append $names .root.Values.fieldLog.s3.existingSecret }}{{ end -}}
{{- if $names }}
envFrom:
{{- range $names }}
  - secretRef:
      name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}
