{{- define "fieldrepair.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 38 | trimSuffix "-" -}}
{{- end -}}

{{/* Prefix of the names of all objects. Short enough for the suffixes that follow: a name has 63 characters at most. */}}
{{- define "fieldrepair.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 38 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "fieldrepair.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 38 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 38 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels of an object: (dict "root" $ "component" "monitor"). */}}
{{- define "fieldrepair.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: fieldrepair
{{ include "fieldrepair.selectorLabels" . }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "fieldrepair.selectorLabels" -}}
app.kubernetes.io/name: {{ include "fieldrepair.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* What pods made by others carry once they are patched. */}}
{{- define "fieldrepair.patchedLabels" -}}
fieldrepair.io/sidecar-of: {{ include "fieldrepair.fullname" . }}
{{- end -}}

{{/* The pods whose sidecars take traffic. */}}
{{- define "fieldrepair.servingSelector" -}}
{{- if eq .Values.mode "sidecar" -}}
{{ include "fieldrepair.patchedLabels" . }}
{{- else -}}
{{ include "fieldrepair.selectorLabels" (dict "root" . "component" .Values.mode) }}
{{- end -}}
{{- end -}}

{{/* The headless Service whose name stands for every sidecar, or the mirror. */}}
{{- define "fieldrepair.sidecarsService" -}}
{{ include "fieldrepair.fullname" . }}-sidecar
{{- end -}}

{{/* The number of their control port: who asks a headless Service reaches the pods themselves. */}}
{{- define "fieldrepair.sidecarsPort" -}}
{{ ternary .Values.mirror.controlPort .Values.sidecar.controlPort (eq .Values.mode "mirror") }}
{{- end -}}

{{/* Its name. */}}
{{- define "fieldrepair.sidecarsPortName" -}}
{{ ternary "fr-control" "control" (eq .Values.mode "sidecar") }}
{{- end -}}

{{- define "fieldrepair.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "fieldrepair.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "fieldrepair.rolloutServiceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- printf "%s-rollout" (include "fieldrepair.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.rolloutName is required with rollout.enabled and serviceAccount.create=false: the rollout may patch one Deployment, the other parts may do nothing" .Values.serviceAccount.rolloutName -}}
{{- end -}}
{{- end -}}

{{/* An image: (dict "root" $ "image" $.Values.images.full). */}}
{{- define "fieldrepair.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "fieldrepair.caseBookSecret" -}}
{{- default (printf "%s-case-book" (include "fieldrepair.fullname" .)) .Values.caseBook.existingSecret -}}
{{- end -}}

{{- define "fieldrepair.tokensSecret" -}}
{{- default (printf "%s-tokens" (include "fieldrepair.fullname" .)) .Values.tokens.existingSecret -}}
{{- end -}}

{{- define "fieldrepair.fieldLogClaim" -}}
{{- default (printf "%s-field-log" (include "fieldrepair.fullname" .)) .Values.fieldLog.persistence.existingClaim -}}
{{- end -}}

{{- define "fieldrepair.modelUri" -}}
{{- if .Values.model.version -}}
models:/{{ .Values.model.name }}/{{ .Values.model.version }}
{{- else -}}
models:/{{ .Values.model.name }}@{{ .Values.model.alias }}
{{- end -}}
{{- end -}}

{{/* Whether there is a rollout: not where a version is fixed, and not where others decide what KServe serves. */}}
{{- define "fieldrepair.rolls" -}}
{{- if and .Values.rollout.enabled (or (and (eq .Values.mode "server") (not .Values.model.version)) (and (eq .Values.mode "sidecar") .Values.rollout.deployment)) -}}
true
{{- end -}}
{{- end -}}

{{- define "fieldrepair.rolledDeployment" -}}
{{- if eq .Values.mode "server" -}}
{{ include "fieldrepair.fullname" . }}-server
{{- else -}}
{{ .Values.rollout.deployment }}
{{- end -}}
{{- end -}}
